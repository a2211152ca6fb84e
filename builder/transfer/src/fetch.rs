//! Files by HTTP and repositories by git, for ADD and for remote contexts.

mod download;
mod git;
mod git_url;

pub use download::{Conditions, Downloads, Fetched, File, add_file_name, fetch};
pub use git::{Checkout, GitOptions, checkout, known_commit, resolve};
pub use git_url::{GitRef, GitUrl, Times};
