//! Flags of `docker build` and `docker buildx build` that mean nothing here, or that are not done yet: a script that has
//! them is told, and goes on where the result is the same.

use clap::Args;

use crate::exit::Problem;
use crate::inputs::wrong;
use crate::render::say;

/// Not shown in `--help`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of docker")]
pub(crate) struct Legacy {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    squash: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    load: Option<bool>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true)]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    #[arg(long, hide = true)]
    attest: Vec<String>,
    #[arg(long, hide = true)]
    annotation: Vec<String>,
    #[arg(long, hide = true)]
    device: Vec<String>,
    #[arg(long, hide = true)]
    policy: Vec<String>,
}

/// Says which flags are without effect.
///
/// # Errors
/// A flag without which the result would be another one, by its name.
pub(crate) fn check(flags: &Legacy) -> Result<(), Problem> {
    refuse(flags)?;
    let meaningless = [
        ("--rm", flags.rm == Some(false), "there are no intermediate containers to keep"),
        ("--force-rm", flags.force_rm.is_some(), "there are no intermediate containers"),
        ("--compress", flags.compress == Some(true), "the context is not sent anywhere"),
        ("--debug", flags.debug, "there is nothing more to tell"),
        ("--builder", flags.builder.is_some(), "there is one builder"),
        (
            "--cgroup-parent",
            flags.cgroup_parent.is_some(),
            "limits are set below lithify's own control group",
        ),
        ("--security-opt", !flags.security_opt.is_empty(), "RUN has its own sandbox"),
    ];
    for (flag, _, why) in meaningless.iter().filter(|(_, given, _)| *given) {
        say(format_args!("warning: {flag} is ignored: {why}"));
    }
    Ok(())
}

fn refuse(flags: &Legacy) -> Result<(), Problem> {
    let is_wanted = |value: &Option<String>| !matches!(value.as_deref(), None | Some("false" | "0"));
    let refused = [
        ("--squash", flags.squash == Some(true), "layers are not squashed"),
        ("--provenance", is_wanted(&flags.provenance), "attestations are not written yet"),
        ("--sbom", is_wanted(&flags.sbom), "attestations are not written yet"),
        ("--attest", !flags.attest.is_empty(), "attestations are not written yet"),
        ("--annotation", !flags.annotation.is_empty(), "annotations are not written yet"),
        ("--device", !flags.device.is_empty(), "devices are not lent to RUN"),
        ("--policy", !flags.policy.is_empty(), "policies are not read"),
    ];
    if let Some((flag, _, why)) = refused.iter().find(|(_, given, _)| *given) {
        return Err(wrong(flag, "is not supported", why));
    }
    match flags.isolation.as_deref() {
        None | Some("" | "default") => Ok(()),
        Some(other) => Err(wrong("--isolation", other, "expected default: the others are for Windows")),
    }
}
