//! RUN.

use std::os::fd::AsFd;

use lithify_cache::key::{self, Chain, Keyed, MountContent, RunSettings, Ulimit};
use lithify_graph::{Exec, Network, Security, Step, StepId};
use lithify_linux::cgroup::Group;
use lithify_sandbox::{RungName, Uplink};
use lithify_worker::{MadeLayer, RunRequest, RunResult, Worker};

use super::certificates;
use super::limits;
use super::mounts::Prepared;
use super::output::{OutputReader, Tail};
use super::{Done, LayerFiles};
use crate::build::Running;
use crate::error::{Ending, Failure, ProcessFailure};
use crate::event::Stream;
use crate::settings::DEFAULT_SHM_BYTES;

/// The tree that a RUN starts from.
#[derive(Clone, Copy)]
enum Base<'a> {
    /// Nobody else needs it: it may become the result.
    Spare(&'a [lithify_oci::Digest]),
    /// It must stay as it is.
    Kept(&'a [lithify_oci::Digest]),
}

/// What programs take for the time at which they run (the specification of reproducible-builds.org).
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// As the Dockerfile sets it.
fn source_date_epoch(exec: &Exec) -> Option<&str> {
    exec.env.iter().rev().find(|(name, _)| name == SOURCE_DATE_EPOCH).map(|(_, value)| value.as_str())
}

impl Running<'_> {
    /// The result of a RUN that is in the cache. What a weaker sandbox made counts only where this build has no better one:
    /// without a pid namespace, say, a process may have seen something else.
    pub(super) fn cached_exec(
        &self,
        id: StepId,
        exec: &Exec,
        mounts: &[MountContent],
    ) -> Result<Option<Done>, Failure> {
        match (self.cached_as(id, exec, mounts)?, self.without_network(exec)) {
            (None, Some(cut_off)) => self.cached_as(id, &cut_off, mounts),
            (done, _) => Ok(done),
        }
    }

    /// The step as it runs with `--offline`, which is another step than with a network: what it finds may differ.
    fn without_network(&self, exec: &Exec) -> Option<Exec> {
        let is_cut_off = self.request.settings.offline && exec.network != Network::None;
        is_cut_off.then(|| Exec { network: Network::None, ..exec.clone() })
    }

    fn cached_as(&self, id: StepId, exec: &Exec, mounts: &[MountContent]) -> Result<Option<Done>, Failure> {
        let step = self.request.graph.step(id);
        let below = self.tree(exec.base);
        if let Some(done) =
            self.cached(id, &self.exec_key(step, exec, mounts, RungName::Range).key, &below)?
        {
            return Ok(Some(done));
        }
        for rung in RungName::ALL.into_iter().filter(|rung| rung.sets_results_apart().is_some()) {
            let weaker = self.exec_key(step, exec, mounts, rung);
            if let Some(done) = self.cached(id, &weaker.key, &below)?
                && self.trees.rung() == Some(rung)
            {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    fn exec_key(&self, step: &Step, exec: &Exec, mounts: &[MountContent], rung: RungName) -> Keyed {
        let settings = self.request.settings;
        let ulimit =
            |(name, soft, hard): &(String, u64, u64)| Ulimit { name: name.clone(), soft: *soft, hard: *hard };
        let run = RunSettings {
            hostname: settings.hostname.clone(),
            extra_hosts: settings.extra_hosts.iter().map(|(name, _)| name.clone()).collect(),
            ulimits: settings.ulimits.iter().map(ulimit).collect(),
            shm_size_bytes: Some(settings.shm_size_bytes).filter(|size| *size != DEFAULT_SHM_BYTES),
            sandbox: rung.sets_results_apart().map(str::to_owned),
            source_date_epoch: settings.reproducible.filter(|_| source_date_epoch(exec).is_none()),
            reproducible: settings.reproducible.map(|_| lithify_worker::NOISE_PROFILE.to_owned()),
            ..RunSettings::default()
        };
        let base = Chain(self.tree(exec.base).diff_ids().to_vec());
        key::exec_key(exec, &step.platform, &base, mounts, &run)
    }

    pub(super) fn run_exec(&self, id: StepId, step: &Step, exec: &Exec) -> Result<Done, Failure> {
        if exec.security == Security::Insecure && !self.request.settings.allow_insecure {
            let problem = "--security=insecure is not allowed; use --allow security.insecure if you trust this Dockerfile";
            return Err(Failure::Input(problem.into()));
        }
        if exec.network == Network::Host
            && let Some(program) = self.request.settings.uplink
            && !self.request.settings.allow_host_network
        {
            return Err(Failure::Input(format!(
                "RUN --network=host leaves the network of its own that --network={} gives; use --allow network.host if you trust \
                 this Dockerfile",
                program.as_str()
            )));
        }
        self.settled(|| self.try_exec(id, step, exec))
    }

    fn try_exec(&self, id: StepId, step: &Step, exec: &Exec) -> Result<Done, Failure> {
        let below = self.tree(exec.base);
        let contents = self.mount_contents(exec)?;
        if self.reads_files(exec)
            && let Some(done) = self.cached_exec(id, exec, &contents)?
        {
            return Ok(done);
        }
        let cut_off = self.without_network(exec);
        let exec = cut_off.as_ref().unwrap_or(exec);
        // The worker's sandbox is known when it has started.
        self.trees.worker()?;
        let keyed = self.exec_key(step, exec, &contents, self.trees.rung().unwrap_or(RungName::Range));
        self.make(id, &keyed, &below, |worker, files| {
            if let Some(message) = self.trees.take_warning() {
                self.request.observer.event(crate::Event::Warning { message });
            }
            let mut needed = self.needed_beside(id);
            self.trees.ensure(worker, &below, &needed)?;
            let base = match below.chain().last() {
                Some(chain_id) if self.trees.is_spare(chain_id, &needed) => Base::Spare(below.chain()),
                _ => Base::Kept(below.chain()),
            };
            needed.0.extend(below.chain().last());
            let mounts = self.prepare_mounts(worker, step, exec, &contents, &needed)?;
            let result = self.run_process(id, exec, base, mounts, worker, files);
            if let Base::Spare(_) = base {
                self.trees.consumed(&below);
            }
            let made = result?;
            self.trees.made(worker, &below.with(made.diff_id))?;
            Ok(made)
        })
    }

    fn run_process(
        &self,
        id: StepId,
        exec: &Exec,
        base: Base<'_>,
        mounts: Prepared,
        worker: &Worker,
        files: &LayerFiles,
    ) -> Result<MadeLayer, Failure> {
        let group = limits::control_group(self);
        let members = group.as_ref().map_or(Ok(vec![]), Group::members);
        let members =
            members.map_err(|source| Failure::Io { doing: "cannot open a control group", source })?;
        let request = RunRequest { cgroups: members.len(), ..self.run_request(exec, base, &mounts)? };
        let reader = OutputReader { step: id, observer: self.request.observer, tail: Tail::default() };
        let reader = &reader;
        let result = std::thread::scope(|scope| {
            let mut passed = vec![files.blob.file().as_fd(), files.catalogue.file().as_fd()];
            passed.extend(members.iter().map(AsFd::as_fd));
            passed.extend(mounts.passed.iter().map(AsFd::as_fd));
            worker.run(request, &passed, |out, error| {
                scope.spawn(move || reader.read(Stream::Out, out));
                scope.spawn(move || reader.read(Stream::Error, error));
            })
        });
        let ending = match result? {
            RunResult::Changed(made) => return Ok(*made),
            RunResult::Exited(code) => Ending::Exited(code),
            RunResult::Signaled(signal) => Ending::Signaled(signal),
            RunResult::TimedOut => {
                Ending::TimedOut(self.request.settings.step_timeout_seconds.unwrap_or_default())
            }
        };
        let was_short = group.is_some_and(|group| group.out_of_memory_kills() > 0);
        let out_of_memory_bytes = self.request.settings.limits.memory_bytes.filter(|_| was_short);
        let (args, tail) = (exec.args.clone(), reader.tail.lines());
        Err(Failure::Process(ProcessFailure { args, ending, tail, out_of_memory_bytes }))
    }

    fn run_request(&self, exec: &Exec, base: Base<'_>, mounts: &Prepared) -> Result<RunRequest, Failure> {
        let settings = self.request.settings;
        let (chain, consume) = match base {
            Base::Spare(chain) => (chain, true),
            Base::Kept(chain) => (chain, false),
        };
        let mut env = exec.env.clone();
        env.extend(exec.proxy_env.iter().cloned());
        let epoch_seconds = settings.reproducible.map(|default| match source_date_epoch(exec) {
            Some(written) => written.parse().unwrap_or(default),
            None => {
                env.push((SOURCE_DATE_EPOCH.into(), default.to_string()));
                default
            }
        });
        env.extend(mounts.env.iter().cloned());
        certificates::add_variables(settings, &mut env);
        let mut resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let network = self.network(exec)?;
        if let lithify_sandbox::Network::Own(uplink) = &network {
            resolv_conf = uplink.resolv_conf(&resolv_conf);
        }
        Ok(RunRequest {
            chain: chain.to_vec(),
            args: exec.args.clone(),
            env,
            cwd: exec.cwd.clone(),
            user: exec.user.clone(),
            hostname: settings.hostname.clone(),
            network,
            security: match exec.security {
                Security::Sandbox => lithify_worker::Security::Sandbox,
                Security::Insecure => lithify_worker::Security::Insecure,
            },
            hosts: self.hosts(),
            resolv_conf,
            mounts: mounts.mounts.iter().cloned().chain(certificates::mounts(settings)).collect(),
            cgroups: 0,
            shm_size_bytes: settings.shm_size_bytes,
            ulimits: limits::of_process(settings),
            timeout_seconds: settings.step_timeout_seconds,
            reproducible: epoch_seconds,
            consume,
        })
    }

    /// The network that the process gets.
    fn network(&self, exec: &Exec) -> Result<lithify_sandbox::Network, Failure> {
        Ok(match (exec.network, self.request.settings.uplink) {
            (Network::None, _) => lithify_sandbox::Network::None,
            (Network::Host, _) | (Network::Default, None) => lithify_sandbox::Network::Host,
            (Network::Default, Some(program)) => {
                let path = std::env::var_os("PATH");
                lithify_sandbox::Network::Own(
                    Uplink::find(program, path.as_deref()).map_err(Failure::Network)?,
                )
            }
        })
    }

    /// /etc/hosts as RUN sees it.
    fn hosts(&self) -> String {
        let settings = self.request.settings;
        let mut hosts = format!(
            "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            settings.hostname
        );
        for (name, address) in &settings.extra_hosts {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        hosts
    }
}
