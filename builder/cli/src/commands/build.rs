//! `lithify build`

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lithify_cache::Store;
use lithify_engine::{Built, Cancel, Error, Event, Failure, Observer, Request};
use lithify_frontend::{Diagnostics, Options, Plan, Source as Text, Warning};
use lithify_graph::Graph;
use lithify_oci::Reference;
use lithify_oci::layer::Times;

use super::deliver::{Delivery, Exports, named_in};
use super::{dockerfile, epoch, space};
use crate::access::Access;
use crate::args::{Build, Progress, Pull};
use crate::caches::Caches;
use crate::config::Config;
use crate::downloads::Outside;
use crate::exit::{self, Problem};
use crate::inputs::{self, wrong};
use crate::legacy;
use crate::lock::Lock;
use crate::network::Connection;
use crate::outputs::{self, Output, Planned};
use crate::render::{self, Renderer, say};
use crate::signals;
use crate::sources::{Provider, store_problem};

pub(super) fn run(arguments: &Build, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    legacy::check(&arguments.legacy)?;
    let tags = inputs::tags(&arguments.tag)?;
    let outputs = outputs::parse(arguments, &tags)?;
    let named = inputs::named_contexts(&arguments.dockerfile.build_context)?;
    let mut options = inputs::options(&arguments.dockerfile, &named)?;
    options.labels = inputs::labels(&arguments.label);
    let network = arguments.network.or(config.network);
    options.network = inputs::network(network);
    let mut settings = inputs::settings(arguments, config)?;
    // A walk has a folder open for each level.
    settings.open_files = lithify_linux::process::raise_open_files();
    settings.uplink = inputs::uplink(network);
    let limits = space::automatic(&config.prune)?;
    for planned in &outputs {
        outputs::check_writable(&planned.output).map_err(|(path, error)| {
            Problem::caused(exit::OUTPUT, format_args!("cannot write {}", path.display()), &error)
        })?;
    }

    let mut caches = caches(arguments, config)?;
    let connection = Connection::new(config, arguments.offline || config.offline);
    if connection.is_offline() {
        caches.without_network();
        if outputs.iter().any(|planned| matches!(planned.output, Output::Image { push: true, .. })) {
            return Err(wrong("--offline", "", "a push needs the network"));
        }
        if arguments.pull == Some(Pull::Always) {
            return Err(wrong("--offline", "", "--pull=always asks a registry each time"));
        }
        settings.offline = true;
    }
    settings.inline_cache = caches.is_inline();
    let cancel = Cancel::default();
    let stopping = signals::cancel_on_signals(&cancel);
    let store = Store::open(&config.store_root(root)?).map_err(store_problem)?;
    let lock = Lock::open(arguments.lock.as_deref().or(config.lock.as_deref()))?;
    let outside = Outside { lock, ..Outside::new(&store, connection.clone(), Access::of(&settings)) };
    let read = dockerfile::read(&arguments.dockerfile, &outside)?;
    let epoch = match lithify_frontend::source_date_epoch(&read.text, &options) {
        Ok(None) => None,
        Ok(Some(said)) => {
            let epoch = epoch::resolve(said, &arguments.dockerfile.context, &named, &outside)?;
            let epoch = epoch.map(|seconds| seconds.to_string());
            // Steps that declare it see the seconds.
            options.build_args.push(("SOURCE_DATE_EPOCH".into(), epoch.clone().unwrap_or_default()));
            epoch
        }
        Err(errors) => return Err(dockerfile_problem(&read.text, &errors)),
    };
    let times = outputs::times(arguments.timestamp.as_deref(), epoch.as_deref())?;
    if caches.is_inline() && times.is_some_and(|times| times != Times::At(0)) {
        let why = "the layers of an image with other times than 0 (--timestamp, SOURCE_DATE_EPOCH) are not those that \
                   steps make; write the cache to a place of its own, such as type=registry,ref=REF";
        return Err(wrong("--cache-to", "type=inline", why));
    }
    if arguments.reproducible || config.reproducible {
        settings.reproducible = Some(outputs::seconds(times));
    }
    let platform = &options.target_platform;
    if let Some(imports) = caches.imports(&connection, platform)? {
        store.attach(imports);
    }
    let exports = Exports::begin(&caches, &outputs, &store, &connection, platform)?;
    let pull = arguments.pull.or(config.pull).unwrap_or(Pull::Missing);
    let pull = if connection.is_offline() { Pull::Missing } else { pull };
    let provider = Provider::new(&outside, pull, read.context, named);
    let (graph, warnings) = plan(&read.text, &options, &provider)?;
    for warning in warnings.iter().filter(|_| !arguments.quiet) {
        say(format_args!("warning: {warning}"));
    }

    for stage in unknown_stages(&arguments.no_cache_filter, &graph).filter(|_| !arguments.quiet) {
        say(format_args!("warning: --no-cache-filter {stage}: no step of a stage with this name is built"));
    }
    stopping.by_cancelling();
    let delivery = Delivery {
        outputs: &outputs,
        times,
        provider: &provider,
        store: &store,
        caches: caches.repositories(),
        platform,
    };
    let progress = if arguments.quiet { Progress::Quiet } else { arguments.progress };
    let name = name_of(arguments, &tags);
    let ran = AtomicBool::new(false);
    let attempt = || {
        let renderer = Renderer::new(progress, &graph);
        let observer = Watch { renderer: &renderer, ran: &ran };
        let request = Request {
            name: &name,
            graph: &graph,
            store: &store,
            sources: &provider,
            settings: &settings,
            observer: &observer,
            cancel: &cancel,
        };
        let built = lithify_engine::build(&request);
        renderer.finish();
        let built = built.map_err(|error| {
            let mut problem = build_problem(&read.text, &graph, error);
            if problem.code == exit::STEP && settings.offline {
                problem.message.push_str("\nwith --offline RUN has no network but loopback");
            }
            problem
        })?;
        delivery.deliver(&built)
    };
    let built = loop {
        match attempt() {
            // A cache that broke is out of the game, so this ends.
            Err(_) if store.lost_upstream() && !cancel.is_cancelled() => {
                say("what it answered is built here instead");
            }
            done => break done,
        }
    };
    let reported = built.and_then(|built| {
        outside.lock.finish()?;
        exports.finish(&store, &built);
        report(arguments, &tags, &outputs, &built)
    });
    if let Some(limits) = limits.filter(|_| ran.load(Ordering::Relaxed)) {
        space::keep_small(&store, &limits);
    }
    reported
}

/// Passes events on, and remembers whether a step ran.
struct Watch<'a> {
    renderer: &'a Renderer,
    ran: &'a AtomicBool,
}

impl Observer for Watch<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Started { .. }) {
            self.ran.store(true, Ordering::Relaxed);
        }
        self.renderer.event(event);
    }
}

/// `--cache-from` and `--cache-to`, by flags, else the environment, else the configuration.
fn caches(arguments: &Build, config: &Config) -> Result<Caches, Problem> {
    let chosen = |flags: &[String], variable: &str, configured: &[String]| -> Vec<String> {
        let set = std::env::var(variable).unwrap_or_default();
        let set: Vec<String> = set.split_whitespace().map(str::to_owned).collect();
        [flags, &set, configured].into_iter().find(|specs| !specs.is_empty()).unwrap_or_default().to_vec()
    };
    let from = chosen(&arguments.cache_from, "LITHIFY_CACHE_FROM", &config.cache_from);
    let to = chosen(&arguments.cache_to, "LITHIFY_CACHE_TO", &config.cache_to);
    Caches::parse(&from, &to)
}

/// Those of the names that no step's stage has.
fn unknown_stages<'a>(names: &'a [String], graph: &'a Graph) -> impl Iterator<Item = &'a String> {
    names.iter().filter(|name| !graph.steps.iter().any(|step| step.stage.eq_ignore_ascii_case(name)))
}

/// What the log of builds calls this one. Never a URL: it may hold a password.
fn name_of(arguments: &Build, tags: &[Reference]) -> String {
    if !tags.is_empty() {
        return tags.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ");
    }
    match std::fs::canonicalize(&arguments.dockerfile.context) {
        Ok(folder) => folder.display().to_string(),
        Err(_) => "(no name)".to_owned(),
    }
}

/// Asks for base images until the frontend has all that it needs.
fn plan(text: &Text, options: &Options, provider: &Provider<'_>) -> Result<(Graph, Vec<Warning>), Problem> {
    let mut images = HashMap::new();
    loop {
        match lithify_frontend::plan(text, options, &images)
            .map_err(|wrong| dockerfile_problem(text, &wrong))?
        {
            Plan::Graph { graph, warnings } => return Ok((graph, warnings)),
            Plan::NeedImages(requests) => {
                for request in requests {
                    let image = provider.resolve(&request)?;
                    images.insert(request, image);
                }
            }
        }
    }
}

pub(super) fn dockerfile_problem(text: &Text, wrong: &Diagnostics) -> Problem {
    let rendered = wrong.0.iter().map(|one| lithify_frontend::render(text, one, render::colour()));
    Problem::new(exit::USAGE, rendered.collect::<Vec<_>>().join("\n"))
}

/// A failed step points at its lines, and says what its process said last and what was kept.
fn build_problem(text: &Text, graph: &Graph, error: Error) -> Problem {
    let (step, title, failure) = match error {
        Error::Step { step, title, failure } => (step, title, failure),
        Error::Cancelled => {
            return Problem::new(exit::INTERRUPTED, "interrupted; finished steps are kept in the cache");
        }
        Error::Store(error) => return store_problem(error),
        error @ Error::Assemble(_) => return assemble_problem(error),
    };
    let code = match &*failure {
        Failure::Source(_) => exit::SOURCE,
        Failure::Unavailable(_) | Failure::Network(_) => exit::SANDBOX,
        Failure::Worker(error) => match error.kind() {
            lithify_worker::FailureKind::Input => exit::STEP,
            lithify_worker::FailureKind::Sandbox => exit::SANDBOX,
            lithify_worker::FailureKind::Storage | lithify_worker::FailureKind::Missing => exit::STORE,
        },
        Failure::Store(_) | Failure::Io { .. } => exit::STORE,
        Failure::Process(_) | Failure::Files(_) | Failure::Input(_) | Failure::Changed { .. } => exit::STEP,
        Failure::Cancelled => exit::INTERRUPTED,
    };
    let mut problem = Problem::caused(code, String::new(), &*failure);
    let what = if problem.causes.is_empty() { failure.to_string() } else { problem.causes.remove(0) };
    let mut message = match graph.step(step).span {
        Some(span) => {
            lithify_frontend::render(text, &lithify_frontend::Diagnostic::at(span, what), render::colour())
        }
        None => format!("{title}: {what}"),
    };
    if let Failure::Process(process) = &*failure
        && !process.tail.is_empty()
    {
        message = format!("{}\nlast lines of its output:", message.trim_end());
        process.tail.iter().for_each(|line| message.push_str(&format!("\n  | {line}")));
        // What a step writes lands in the store.
        if process.tail.iter().any(|line| line.contains("No space left on device")) {
            message.push_str("\na disk is full, maybe the store's: `lithify du` says what takes space there, `lithify prune` frees some");
        }
    }
    problem.message = format!("{}\nfinished steps are kept in the cache", message.trim_end());
    problem
}

pub(super) fn assemble_problem(error: Error) -> Problem {
    match error {
        Error::Store(error) => store_problem(error),
        error => Problem::caused(exit::STORE, "cannot write the image to the store", &error),
    }
}

/// Says what came out.
fn report(arguments: &Build, tags: &[Reference], outputs: &[Planned], built: &Built) -> Result<(), Problem> {
    let written = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| {
            Problem::caused(exit::OUTPUT, format_args!("cannot write {}", path.display()), &error)
        })
    };
    if let Some(path) = &arguments.iidfile {
        written(path, built.config.digest.to_string())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let names: Vec<String> = named_in(outputs).iter().map(Reference::to_string).collect();
        let metadata = serde_json::json!({
            "containerimage.digest": built.manifest.digest,
            "containerimage.config.digest": built.config.digest,
            "containerimage.descriptor": built.manifest,
            "image.name": names.join(","),
        });
        written(path, format!("{metadata:#}\n"))?;
    }
    if arguments.quiet {
        println!("{}", built.config.digest);
        return Ok(());
    }
    let bytes: u64 = built.layers.iter().map(|layer| layer.blob.size_bytes).sum();
    for tag in tags {
        say(format_args!("image   {}", tag.familiar()));
    }
    say(format_args!("digest  {}", built.manifest.digest));
    let layers = built.layers.len();
    say(format_args!(
        "size    {} in {layers} layer{}",
        render::size(bytes),
        if layers == 1 { "" } else { "s" }
    ));
    Ok(())
}
