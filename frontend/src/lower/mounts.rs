//! `RUN --mount`.

use lithify_graph::{CacheSharing, Mount, MountKind, Tree};

use crate::csv;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Run};
use crate::lint::parse_bool;
use crate::lower::stage::Work;
use crate::lower::{Lowering, Place};
use crate::paths;
use crate::resolve::Origin;
use crate::source::Word;

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];
const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// The options of one mount, expanded.
#[derive(Default)]
struct Settings {
    kind: String,
    from: bool,
    source: String,
    target: String,
    read_only: Option<bool>,
    size_bytes: Option<u64>,
    id: String,
    sharing: Option<CacheSharing>,
    required: Option<bool>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl<'a> Lowering<'a> {
    /// The mounts of a RUN; `None` when any of them has an error.
    pub(crate) fn mounts(
        &mut self,
        work: &Work<'a>,
        instruction: &'a Instruction,
        run: &Run,
    ) -> Option<Vec<Mount>> {
        let number = work.node.stage.number;
        let origins = self.resolver.origins(instruction, &self.stages.nodes, number);
        let mut mounts = vec![];
        let mut agents = 0;
        let mut failed = false;
        for word in &run.mounts {
            let origin =
                origins.iter().find(|(from, _)| from == word).and_then(|(_, origin)| origin.clone().ok());
            let mount = self.settings(work, instruction, word).and_then(|settings| {
                let place = Place { node: work.node, instruction, title: String::new() };
                self.mount(work, settings, origin, &mut agents, word, &place)
            });
            failed |= mount.is_none();
            mounts.extend(mount);
        }
        (!failed).then_some(mounts)
    }

    fn settings(&mut self, work: &Work<'a>, instruction: &Instruction, word: &Word) -> Option<Settings> {
        let fields = match csv::fields(&word.text) {
            Ok(fields) => fields,
            Err(problem) => {
                self.fail(word.span, format!("failed to parse csv mounts: {problem}"));
                return None;
            }
        };
        let mut settings = Settings { kind: "bind".into(), ..Settings::default() };
        let mut pairs = vec![];
        for field in &fields {
            let (key, value) = match field.split_once('=') {
                None => (field.to_lowercase(), None),
                Some((key, value)) => {
                    let value = Word { text: value.to_owned(), span: word.span };
                    (key.to_lowercase(), Some(self.word(work, instruction, &value)?))
                }
            };
            pairs.push((key, value, field));
        }
        // The type first, since it decides which keys are allowed.
        pairs.sort_by_key(|(key, _, _)| key != "type");
        for (key, value, field) in pairs {
            if let Err(diagnostic) = settings.set(&key, value.as_deref(), field, word) {
                self.problems.push(diagnostic);
                return None;
            }
        }
        match settings.check() {
            Ok(()) => Some(settings),
            Err(problem) => {
                self.fail(word.span, problem);
                None
            }
        }
    }

    fn mount(
        &mut self,
        work: &Work<'a>,
        settings: Settings,
        origin: Option<Origin>,
        agents: &mut usize,
        word: &Word,
        place: &Place<'_>,
    ) -> Option<Mount> {
        let cwd = &work.state.cwd;
        let (uid, gid) = (settings.uid.unwrap_or(0), settings.gid.unwrap_or(0));
        let required = settings.required.unwrap_or(false);
        let source = paths::join("/", &settings.source);
        let target = paths::join(cwd, &settings.target);
        let kind = match settings.kind.as_str() {
            "secret" => {
                let mount = secret(settings, cwd);
                if let MountKind::Secret { id, required, .. } = &mount.kind {
                    self.collected.secret(id, *required, place.instruction);
                }
                return Some(mount);
            }
            "ssh" => {
                let default = format!("/run/buildkit/ssh_agent.{agents}");
                *agents += 1;
                let target = if settings.target.is_empty() { default } else { target };
                let id = if settings.id.is_empty() { "default".into() } else { settings.id };
                let mode = settings.mode.unwrap_or(0o600);
                self.collected.ssh(&id, required, place.instruction);
                return Some(Mount {
                    target: Some(target),
                    kind: MountKind::Ssh { id, required, mode, uid, gid },
                });
            }
            "tmpfs" => MountKind::Tmpfs { size_bytes: settings.size_bytes.filter(|size| *size > 0) },
            "cache" => {
                let own =
                    if settings.id.is_empty() { paths::clean(&settings.target) } else { settings.id.clone() };
                let namespace = self.resolver.options.build_arg("BUILDKIT_CACHE_MOUNT_NS");
                let id = match namespace.filter(|namespace| !namespace.is_empty()) {
                    Some(namespace) => format!("{namespace}/{own}"),
                    None => own,
                };
                // A folder inside `from` has an owner and mode already.
                let is_root = source == "/";
                MountKind::Cache {
                    id,
                    sharing: settings.sharing.unwrap_or_default(),
                    from: origin.map_or(Tree::Scratch, |origin| self.tree(&origin, place)),
                    source,
                    mode: settings.mode.filter(|_| is_root).unwrap_or(0o755),
                    uid: if is_root { uid } else { 0 },
                    gid: if is_root { gid } else { 0 },
                    read_only: settings.read_only.unwrap_or(false),
                }
            }
            _ => MountKind::Bind {
                from: match origin {
                    Some(origin) => self.tree(&origin, place),
                    None => self.context(None),
                },
                source,
                writable: !settings.read_only.unwrap_or(true),
            },
        };
        let folder_unknown = self.early && !settings.target.starts_with('/');
        if target == "/" && !folder_unknown {
            self.fail(word.span, format!("invalid mount target {target:?}"));
            return None;
        }
        Some(Mount { target: Some(target), kind })
    }
}

fn secret(settings: Settings, cwd: &str) -> Mount {
    let named = [&settings.source, &settings.id].into_iter().find(|name| !name.is_empty());
    let id = named.cloned().unwrap_or_else(|| paths::base_name(&settings.target).to_owned());
    let target = match (settings.target.is_empty(), &settings.env) {
        (false, _) => Some(paths::join(cwd, &settings.target)),
        (true, Some(_)) => None,
        (true, None) => Some(format!("/run/secrets/{}", paths::base_name(&id))),
    };
    let env = settings.env.map(|name| if name.is_empty() { id.clone() } else { name });
    let kind = MountKind::Secret {
        id,
        env,
        required: settings.required.unwrap_or(false),
        mode: settings.mode.unwrap_or(0o400),
        uid: settings.uid.unwrap_or(0),
        gid: settings.gid.unwrap_or(0),
    };
    Mount { target, kind }
}

impl Settings {
    fn set(&mut self, key: &str, value: Option<&str>, field: &str, word: &Word) -> Result<(), Diagnostic> {
        let fail = |message: String| Diagnostic::at(word.span, message);
        let invalid = |value: &str| fail(format!("invalid value for {key}: {value}"));
        let switch = |value: Option<&str>| match value {
            None => Ok(true),
            Some(value) => parse_bool(value).ok_or_else(|| invalid(value)),
        };
        let unexpected = || fail(format!("unexpected key '{key}' for mount type '{}'", self.kind));
        match key {
            "readonly" | "ro" => self.read_only = Some(switch(value)?),
            "readwrite" | "rw" => self.read_only = Some(!switch(value)?),
            "required" if matches!(self.kind.as_str(), "secret" | "ssh") => {
                self.required = Some(switch(value)?)
            }
            "required" => return Err(unexpected()),
            _ => {
                let Some(value) = value else {
                    let message = format!("invalid field '{field}' must be a key=value pair");
                    return Err(fail(message).suggest(key, KEYS));
                };
                return self.set_value(key, value, field, word);
            }
        }
        Ok(())
    }

    fn set_value(&mut self, key: &str, value: &str, field: &str, word: &Word) -> Result<(), Diagnostic> {
        let fail = |message: String| Diagnostic::at(word.span, message);
        let number = |radix| {
            let problem = || fail(format!("invalid value {value} for {key}"));
            u32::from_str_radix(value, radix).map_err(|_| problem())
        };
        let lower = value.to_lowercase();
        match key {
            "type" if TYPES.contains(&lower.as_str()) => self.kind = lower,
            "type" => return Err(fail(format!("unsupported mount type {value:?}")).suggest(&lower, TYPES)),
            "from" => self.from = !value.is_empty(),
            "source" | "src" => self.source = value.to_owned(),
            "target" | "dst" | "destination" => self.target = value.to_owned(),
            "size" if self.kind == "tmpfs" => {
                let size = size_bytes(value);
                self.size_bytes = Some(size.ok_or_else(|| fail(format!("invalid value for size: {value}")))?);
            }
            "size" => return Err(fail(format!("unexpected key 'size' for mount type '{}'", self.kind))),
            "id" => self.id = value.to_owned(),
            "sharing" => {
                self.sharing = Some(match lower.as_str() {
                    "shared" => CacheSharing::Shared,
                    "private" => CacheSharing::Private,
                    "locked" => CacheSharing::Locked,
                    _ => {
                        let diagnostic = fail(format!("unsupported sharing value {value:?}"));
                        return Err(diagnostic.suggest(&lower, ["shared", "private", "locked"]));
                    }
                });
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value.to_owned()),
            _ => return Err(fail(format!("unexpected key '{key}' in '{field}'")).suggest(key, KEYS)),
        }
        Ok(())
    }

    /// What does not go together.
    fn check(&self) -> Result<(), String> {
        let kind = self.kind.as_str();
        if matches!(kind, "bind" | "tmpfs") {
            let given = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
                return Err(format!("{key} not allowed for {kind:?} type mounts"));
            }
        }
        if kind == "secret" {
            if self.from {
                return Err("secret mount should not have a from".into());
            }
            if self.sharing.is_some() {
                return Err("secret mount should not define sharing".into());
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err("invalid secret mount. one of id, source, target required".into());
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err("both source and id can't be set".into());
            }
        }
        if kind == "ssh" && !self.source.is_empty() {
            return Err("ssh does not support source".into());
        }
        match self.sharing.is_some() && kind != "cache" {
            true => Err(format!("invalid cache sharing set for {kind} mount")),
            false => Ok(()),
        }
    }
}

/// A size with docker's units: `100m`, `1.5 GiB`, `4096`.
fn size_bytes(text: &str) -> Option<u64> {
    let digits = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_lowercase();
    let power = match suffix.as_str() {
        "" | "b" => 0,
        _ => {
            let unit = suffix.chars().next()?;
            if !matches!(&suffix[unit.len_utf8()..], "" | "b" | "ib") {
                return None;
            }
            "kmgtp".find(unit)? as i32 + 1
        }
    };
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    Some((number * 1024f64.powi(power)) as u64)
}
