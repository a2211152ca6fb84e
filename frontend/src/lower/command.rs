//! Shell forms.

use lithify_oci::ImageConfig;

/// The command that runs `text`: the image's SHELL, or the system's, and the text as one argument.
pub(crate) fn with_shell(config: &ImageConfig, text: String) -> Vec<String> {
    let shell = config.config.shell.clone().filter(|shell| !shell.is_empty());
    let mut command = shell.unwrap_or_else(|| {
        let words: &[&str] = if config.os == "windows" { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
        words.iter().map(|word| (*word).to_owned()).collect()
    });
    command.push(text);
    command
}
