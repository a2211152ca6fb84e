//! Caches of other machines: `--cache-from` and `--cache-to`.

mod depots;

use std::path::PathBuf;
use std::sync::Arc;

use lithify_cache::remote::{Depot, Import, Imports, Mode};
use lithify_oci::{Digest, Platform, Reference};
use lithify_transfer::Secret;
use lithify_transfer::depot::BucketConfig;

use crate::exit::{self, Problem};
use crate::inputs::split_commas;
use crate::network::Connection;
use crate::render::say;

/// What the flags ask for.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// What may be taken from, in order.
    pub(crate) from: Vec<Spec>,
    /// What is written.
    pub(crate) to: Vec<Spec>,
}

/// One cache.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    /// Ids of cache mounts that travel as well.
    pub(crate) mounts: Vec<String>,
}

/// Where a cache is kept.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Registry(Reference),
    Folder {
        path: PathBuf,
        tag: Option<String>,
        digest: Option<Digest>,
    },
    Bucket(Box<BucketConfig>),
    /// In the image that is built.
    Inline,
}

/// Which of the two flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    From,
    To,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Flag::From => "--cache-from",
            Flag::To => "--cache-to",
        }
    }
}

impl Caches {
    /// Reads the flags' values.
    ///
    /// # Errors
    /// Types and attributes that are not known, by name; values that mean nothing.
    pub(crate) fn parse(from: &[String], to: &[String]) -> Result<Self, Problem> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let parse = |flag, specs: &[String]| -> Result<Vec<Spec>, Problem> {
            specs.iter().map(|spec| Fields::parse(flag, spec)?.spec(&variable)).collect()
        };
        Ok(Caches { from: parse(Flag::From, from)?, to: parse(Flag::To, to)? })
    }

    /// Whether the image gets records of its own.
    pub(crate) fn is_inline(&self) -> bool {
        self.to.iter().any(|spec| matches!(spec.kind, Kind::Inline))
    }

    /// Leaves out those that need the network, with a warning.
    pub(crate) fn without_network(&mut self) {
        let is_near = |flag: Flag, spec: &Spec| {
            let is_far = matches!(spec.kind, Kind::Registry(_) | Kind::Bucket(_));
            if is_far {
                let (flag, name) = (flag.name(), spec.kind.name());
                say(format_args!("warning: {flag} {name} is left out: --offline forbids the network"));
            }
            !is_far
        };
        self.from.retain(|spec| is_near(Flag::From, spec));
        self.to.retain(|spec| is_near(Flag::To, spec));
    }

    /// The caches to take from; `None` where there are none.
    pub(crate) fn imports(
        &self,
        connection: &Arc<Connection>,
        platform: &Platform,
    ) -> Result<Option<Imports>, Problem> {
        let mut sources = vec![];
        for spec in &self.from {
            let depot = spec.kind.depot(connection, platform, vec![])?;
            sources.extend(depot.map(|depot| Import { depot, mounts: spec.mounts.clone() }));
        }
        if sources.is_empty() {
            return Ok(None);
        }
        Ok(Some(Imports::new(sources, |message| say(format_args!("warning: {message}")))))
    }

    /// The repositories that layers of imported results may be mounted from.
    pub(crate) fn repositories(&self) -> Vec<Reference> {
        let references = self.from.iter().filter_map(|spec| match &spec.kind {
            Kind::Registry(reference) => Some(reference.clone()),
            _ => None,
        });
        references.collect()
    }
}

impl Kind {
    /// What messages call it; without what nobody else is to know.
    pub(crate) fn name(&self) -> String {
        match self {
            Kind::Registry(reference) => format!("type=registry,ref={}", reference.familiar()),
            Kind::Folder { path, tag: None, .. } => format!("type=local,{}", path.display()),
            Kind::Folder { path, tag: Some(tag), .. } => format!("type=local,{},tag={tag}", path.display()),
            Kind::Bucket(config) => format!("type=s3,bucket={},{}", config.bucket, config.manifest),
            Kind::Inline => "type=inline".into(),
        }
    }

    /// The place; `None` for what is no place.
    pub(crate) fn depot(
        &self,
        connection: &Arc<Connection>,
        platform: &Platform,
        sources: Vec<Reference>,
    ) -> Result<Option<Arc<dyn Depot>>, Problem> {
        depots::open(self, connection, platform, sources)
    }
}

const REGISTRY: &[&str] = &["type", "ref"];
const LOCAL_FROM: &[&str] = &["type", "src", "tag", "digest"];
const LOCAL_TO: &[&str] = &["type", "dest", "tag", "mode"];
const INLINE: &[&str] = &["type"];
const BUCKET: &[&str] = &[
    "type",
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
];
/// What `--cache-to` takes besides.
const TO: &[&str] = &["mode", "ignore-error"];
/// What `--cache-to type=registry` takes besides.
const REGISTRY_TO: &[&str] = &["oci-mediatypes", "image-manifest"];

/// Values that are shown to nobody.
const SECRET: &[&str] = &["access_key_id", "secret_access_key", "session_token"];

/// The `key=value` fields of a spec.
struct Fields {
    flag: Flag,
    fields: Vec<(String, String)>,
}

impl Fields {
    fn parse(flag: Flag, spec: &str) -> Result<Self, Problem> {
        // As buildx has it: a name alone is an image's.
        if !spec.contains('=') {
            let fields = [("type", "registry"), ("ref", spec)];
            let fields = fields.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
            return Ok(Fields { flag, fields });
        }
        let mut fields = Fields { flag, fields: vec![] };
        for field in split_commas(spec) {
            match field.split_once('=') {
                Some((key, value)) => fields.fields.push((key.to_lowercase(), value.to_owned())),
                None => return Err(fields.wrong(format_args!("{field:?} is no KEY=VALUE"))),
            }
        }
        Ok(fields)
    }

    /// A problem that shows the spec, but no secret of it.
    fn wrong(&self, why: impl std::fmt::Display) -> Problem {
        let shown = self.fields.iter().map(|(key, value)| match SECRET.contains(&key.as_str()) {
            true => format!("{key}=xxxxx"),
            false => format!("{key}={value}"),
        });
        let shown = shown.collect::<Vec<_>>().join(",");
        Problem::new(exit::USAGE, format_args!("{} {shown}: {why}", self.flag.name()))
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    fn need(&self, key: &str, example: &str) -> Result<&str, Problem> {
        self.get(key).ok_or_else(|| self.wrong(format_args!("it needs {key}={example}")))
    }

    fn spec(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Spec, Problem> {
        let kind = match self.need("type", "registry, local, s3 or inline")? {
            "registry" => {
                self.know(&[REGISTRY, if self.flag == Flag::To { REGISTRY_TO } else { &[] }].concat())?;
                self.only_true(REGISTRY_TO)?;
                let name = self.need("ref", "REGISTRY/REPOSITORY:TAG")?;
                Kind::Registry(name.parse().map_err(|error| self.wrong(error))?)
            }
            "local" => self.folder()?,
            "s3" => {
                self.know(BUCKET)?;
                Kind::Bucket(Box::new(self.bucket(variable)?))
            }
            "inline" if self.flag == Flag::From => {
                return Err(self.wrong("name the image that has it: type=registry,ref=IMAGE"));
            }
            "inline" => {
                self.know(INLINE)?;
                Kind::Inline
            }
            "gha" => {
                return Err(self.wrong(
                    "GitHub's own cache service is not supported: use type=registry with a repository of ghcr.io, or \
                     type=local with a folder that actions/cache keeps",
                ));
            }
            "azblob" => {
                return Err(self.wrong(
                    "Azure's object store is not supported: use type=registry with a repository of azurecr.io, or type=s3",
                ));
            }
            other => {
                return Err(self.wrong(format_args!(
                    "the type {other} is not known; expected registry, local, s3 or inline"
                )));
            }
        };
        self.only_true(&["ignore-error"])?;
        let mode = match self.get("mode") {
            None | Some("min") => Mode::Min,
            Some("max") => Mode::Max,
            Some(_) => return Err(self.wrong("expected mode=min or mode=max")),
        };
        let mounts = self.fields.iter().filter(|(key, _)| key == "mounts").map(|(_, id)| id.clone());
        Ok(Spec { kind, mode, mounts: mounts.collect() })
    }

    /// Refuses attributes that are not among these.
    fn know(&self, known: &[&str]) -> Result<(), Problem> {
        let known = [known, if self.flag == Flag::To { TO } else { &[] }].concat();
        match self.fields.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => {
                Err(self.wrong(format_args!("{key} is not known here; expected {}", known.join(", "))))
            }
        }
    }

    /// Attributes of BuildKit that say how it is anyway.
    fn only_true(&self, keys: &[&str]) -> Result<(), Problem> {
        match keys.iter().find(|key| !matches!(self.get(key), None | Some("true" | "1"))) {
            None => Ok(()),
            Some(key) => Err(self.wrong(format_args!("{key} is always true"))),
        }
    }

    fn folder(&self) -> Result<Kind, Problem> {
        let (known, key) = match self.flag {
            Flag::From => (LOCAL_FROM, "src"),
            Flag::To => (LOCAL_TO, "dest"),
        };
        self.know(known)?;
        let digest = self.get("digest").map(str::parse::<Digest>).transpose();
        Ok(Kind::Folder {
            path: self.need(key, "FOLDER")?.into(),
            tag: self.get("tag").map(str::to_owned),
            digest: digest.map_err(|error| self.wrong(error))?,
        })
    }

    fn bucket(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<BucketConfig, Problem> {
        let or = |key: &str, names: &[&str]| {
            self.get(key).map(str::to_owned).or_else(|| names.iter().find_map(|name| variable(name)))
        };
        let endpoint = or("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let bucket = or("bucket", &["AWS_BUCKET"]);
        let bucket = bucket.ok_or_else(|| self.wrong("it needs bucket=NAME, or the variable AWS_BUCKET"))?;
        let region = or("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
        let region = region.ok_or_else(|| self.wrong("it needs region=NAME, or the variable AWS_REGION"))?;
        let key = or("access_key_id", &["AWS_ACCESS_KEY_ID"]);
        let secret = or("secret_access_key", &["AWS_SECRET_ACCESS_KEY"]);
        let token = or("session_token", &["AWS_SESSION_TOKEN"]).map(Secret::new);
        let login = match (key, secret) {
            (Some(key), Some(secret)) => Some((key, Secret::new(secret), token)),
            (None, None) => None,
            _ => return Err(self.wrong("it needs both access_key_id and secret_access_key, or neither")),
        };
        let path_style = match self.get("use_path_style") {
            None => endpoint.is_some(),
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(_) => return Err(self.wrong("expected use_path_style=true or use_path_style=false")),
        };
        let prefix = self.get("prefix").unwrap_or_default();
        let part = |key: &str, usual: &'static str| self.get(key).unwrap_or(usual).to_owned();
        Ok(BucketConfig {
            bucket,
            region,
            endpoint,
            path_style,
            login,
            blobs_prefix: format!("{prefix}{}", part("blobs_prefix", "blobs/")),
            manifest: format!(
                "{prefix}{}{}",
                part("manifests_prefix", "manifests/"),
                part("name", "lithify")
            ),
            user_agent: concat!("lithify/", env!("CARGO_PKG_VERSION")).into(),
        })
    }
}

#[cfg(test)]
mod tests;
