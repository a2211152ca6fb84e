//! Names, descriptions and addresses of the rules.

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Stage names should be lower case.
    StageNameCasing,
    /// `AS` should have the case of `FROM`.
    FromAsCasing,
    /// No blank lines inside a continued instruction.
    NoEmptyContinuation,
    /// All keywords in one case.
    ConsistentInstructionCasing,
    /// Stage names should be unique.
    DuplicateStageName,
    /// `scratch` and `context` are no stage names.
    ReservedStageName,
    /// CMD and ENTRYPOINT in JSON form.
    JsonArgsRecommended,
    /// MAINTAINER is deprecated.
    MaintainerDeprecated,
    /// FROM uses an argument that is not declared.
    UndefinedArgInFrom,
    /// The first WORKDIR is relative.
    WorkdirRelativePath,
    /// A variable is used that is not set.
    UndefinedVar,
    /// CMD, ENTRYPOINT or HEALTHCHECK twice in a stage.
    MultipleInstructionsDisallowed,
    /// `ENV key value`.
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// A name that sounds like a secret in ARG or ENV.
    SecretsUsedInArgOrEnv,
    /// With the defaults alone FROM names no image.
    InvalidDefaultArgInFrom,
    /// A constant `--platform`.
    FromPlatformFlagConstDisallowed,
    /// A source that the ignore file excludes.
    CopyIgnoredFile,
    /// A comment above FROM or ARG that does not describe it (experimental).
    InvalidDefinitionDescription,
    /// A protocol in upper case in EXPOSE.
    ExposeProtoCasing,
    /// An address or host port in EXPOSE.
    ExposeInvalidFormat,
    /// A note, no rule of BuildKit's: `# syntax=` names a frontend that is not used.
    SyntaxIgnored,
    /// A note: a flag that this instruction does not look at.
    FlagIgnored,
    /// A note: an ONBUILD trigger that will fail when the image is built upon.
    InvalidTrigger,
    /// A note: a stage hides a named context.
    ContextHidden,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 26] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
        Rule::SyntaxIgnored,
        Rule::FlagIgnored,
        Rule::InvalidTrigger,
        Rule::ContextHidden,
    ];

    /// The name, as in `# check=skip=<name>`.
    pub fn name(self) -> &'static str {
        self.about().0
    }

    /// What it asks for.
    pub fn description(self) -> &'static str {
        self.about().1
    }

    /// Where BuildKit's documentation tells of it; none for rules that have no page.
    pub fn url(self) -> Option<String> {
        let name = match self {
            Rule::InvalidBaseImagePlatform => return None,
            note if note.is_note() => return None,
            Rule::JsonArgsRecommended => "json-args-recommended".to_owned(),
            _ => kebab_case(self.name()),
        };
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{name}/"))
    }

    /// Whether it only counts when asked for with `experimental=`.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }

    /// Whether it is a note of this program's, which fails no build and is no rule of BuildKit's.
    pub fn is_note(self) -> bool {
        matches!(self, Rule::SyntaxIgnored | Rule::FlagIgnored | Rule::InvalidTrigger | Rule::ContextHidden)
    }

    fn about(self) -> (&'static str, &'static str) {
        match self {
            Rule::StageNameCasing => ("StageNameCasing", "Stage names should be lowercase"),
            Rule::FromAsCasing => {
                ("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword")
            }
            Rule::NoEmptyContinuation => {
                ("NoEmptyContinuation", "Empty continuation lines will become errors in a future release")
            }
            Rule::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Rule::DuplicateStageName => ("DuplicateStageName", "Stage names should be unique"),
            Rule::ReservedStageName => {
                ("ReservedStageName", "Reserved words should not be used as stage names")
            }
            Rule::JsonArgsRecommended => (
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Rule::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Rule::UndefinedArgInFrom => ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
            Rule::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results \
                 if the base image changes",
            ),
            Rule::UndefinedVar => ("UndefinedVar", "Variables should be defined before their use"),
            Rule::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Rule::LegacyKeyValueFormat => (
                "LegacyKeyValueFormat",
                "Legacy key/value format with whitespace separator should not be used",
            ),
            Rule::InvalidBaseImagePlatform => {
                ("InvalidBaseImagePlatform", "Base image platform does not match expected target platform")
            }
            Rule::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Rule::SecretsUsedInArgOrEnv => {
                ("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands")
            }
            Rule::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Rule::FromPlatformFlagConstDisallowed => {
                ("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value")
            }
            Rule::CopyIgnoredFile => {
                ("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore")
            }
            Rule::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If \
                 this is not intended to be a description comment, add an empty line or comment between the \
                 instruction and the comment.",
            ),
            Rule::ExposeProtoCasing => {
                ("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase")
            }
            Rule::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error \
                 in a future release",
            ),
            Rule::SyntaxIgnored => {
                ("SyntaxIgnored", "The Dockerfile language is built in, no frontend image is used")
            }
            Rule::FlagIgnored => {
                ("FlagIgnored", "A flag that the instruction does not look at has no effect")
            }
            Rule::InvalidTrigger => (
                "InvalidTrigger",
                "An ONBUILD trigger that is not understood fails builds that start from the image",
            ),
            Rule::ContextHidden => ("ContextHidden", "A stage hides a named context of the same name"),
        }
    }
}

fn kebab_case(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}
