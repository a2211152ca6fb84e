//! `lithify build`

use std::collections::HashMap;
use std::path::Path;

use lithify_cache::Store;
use lithify_engine::{Built, Cancel, Encoding, Error, Failure, Request};
use lithify_frontend::{Diagnostics, Options, Plan, Source as Text, Warning};
use lithify_graph::Graph;
use lithify_oci::layer::Times;
use lithify_oci::{Blobs, Reference};
use lithify_transfer::{Contents, Image, archive};

use super::{dockerfile, epoch, files};
use crate::access::Access;
use crate::args::{Build, Progress, Pull};
use crate::config::Config;
use crate::exit::{self, Problem};
use crate::outputs::{self, Output, Planned};
use crate::render::{self, Renderer, say};
use crate::signals;
use crate::sources::{Provider, store_problem};
use crate::{inputs, legacy};

pub(super) fn run(arguments: &Build, config: &Config, root: Option<&Path>) -> Result<(), Problem> {
    legacy::check(&arguments.legacy)?;
    let tags = inputs::tags(&arguments.tag)?;
    let outputs = outputs::parse(arguments, &tags)?;
    let named = inputs::named_contexts(&arguments.dockerfile.build_context)?;
    let mut options = inputs::options(&arguments.dockerfile, &named)?;
    options.labels = inputs::labels(&arguments.label);
    options.network = inputs::network(arguments.network);
    let settings = inputs::settings(arguments, config)?;
    for planned in &outputs {
        outputs::check_writable(&planned.output).map_err(|(path, error)| {
            Problem::caused(exit::OUTPUT, format_args!("cannot write {}", path.display()), &error)
        })?;
    }

    let cancel = Cancel::default();
    let stopping = signals::cancel_on_signals(&cancel);
    let access = Access::of(&settings);
    let store = Store::open(&config.store_root(root)?).map_err(store_problem)?;
    let read = dockerfile::read(&arguments.dockerfile, &access, &store)?;
    let epoch = match lithify_frontend::source_date_epoch(&read.text, &options) {
        Ok(None) => None,
        Ok(Some(said)) => {
            let epoch = epoch::resolve(said, &arguments.dockerfile.context, &named, &access, &store)?;
            let epoch = epoch.map(|seconds| seconds.to_string());
            // Steps that declare it see the seconds.
            options.build_args.push(("SOURCE_DATE_EPOCH".into(), epoch.clone().unwrap_or_default()));
            epoch
        }
        Err(errors) => return Err(dockerfile_problem(&read.text, &errors)),
    };
    let times = outputs::times(arguments.timestamp.as_deref(), epoch.as_deref())?;
    let pull = arguments.pull.or(config.pull).unwrap_or(Pull::Missing);
    let provider = Provider::new(&store, config, pull, read.context, named).with_access(access);
    let (graph, warnings) = plan(&read.text, &options, &provider)?;
    for warning in warnings.iter().filter(|_| !arguments.quiet) {
        say(format_args!("warning: {warning}"));
    }

    stopping.by_cancelling();
    let progress = if arguments.quiet { Progress::Quiet } else { arguments.progress };
    let renderer = Renderer::new(progress, &graph);
    let request = Request {
        graph: &graph,
        store: &store,
        sources: &provider,
        settings: &settings,
        observer: &renderer,
        cancel: &cancel,
    };
    let built = lithify_engine::build(&request);
    renderer.finish();
    let built = built.map_err(|error| build_problem(&read.text, &graph, error))?;

    let built = deliver(&outputs, times, &built, &provider, &store)?;
    report(arguments, &tags, &outputs, &built)
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
        Failure::Unavailable(_) => exit::SANDBOX,
        Failure::Worker(error) => match error.kind() {
            lithify_worker::FailureKind::Input => exit::STEP,
            lithify_worker::FailureKind::Sandbox => exit::SANDBOX,
            lithify_worker::FailureKind::Storage => exit::STORE,
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
    }
    problem.message = format!("{}\nfinished steps are kept in the cache", message.trim_end());
    problem
}

fn assemble_problem(error: Error) -> Problem {
    match error {
        Error::Store(error) => store_problem(error),
        error => Problem::caused(exit::STORE, "cannot write the image to the store", &error),
    }
}

/// Writes and pushes the result. Gives the image in the encoding of the first output.
fn deliver(
    outputs: &[Planned],
    times: Option<Times>,
    built: &Built,
    provider: &Provider<'_>,
    store: &Store,
) -> Result<Built, Problem> {
    let mut encoded: Vec<(Encoding, Built)> = vec![];
    for Planned { output, encoding } in outputs {
        let encoding = Encoding { times: times.unwrap_or(encoding.times), ..*encoding };
        let built = match encoded.iter().find(|(known, _)| *known == encoding) {
            Some((_, known)) => known.clone(),
            None => {
                if encoding.force_compression {
                    fetch_bases(built, provider, store)?;
                }
                let one = built.encoded(store, &encoding).map_err(assemble_problem)?;
                encoded.push((encoding, one.clone()));
                one
            }
        };
        deliver_one(output, outputs, &built, times, provider, store)?;
    }
    Ok(encoded.into_iter().next().map_or_else(|| built.clone(), |(_, first)| first))
}

fn deliver_one(
    output: &Output,
    outputs: &[Planned],
    built: &Built,
    times: Option<Times>,
    provider: &Provider<'_>,
    store: &Store,
) -> Result<(), Problem> {
    let image = Image {
        manifest: built.manifest.clone(),
        manifest_bytes: built.manifest_bytes.clone(),
        config: built.config.clone(),
        layers: built.layers.iter().map(|layer| layer.blob.clone()).collect(),
        index: None,
    };
    let failed = |what: &str, error: &dyn std::error::Error| {
        Problem::caused(exit::OUTPUT, format_args!("cannot write {what}"), error)
    };
    match output {
        Output::Image { names, push } => {
            for name in names {
                store.tag_image(name, &built.manifest).map_err(store_problem)?;
                if *push {
                    push_one(name, &image, built, provider, store)?;
                }
            }
        }
        Output::OciArchive(destination) => {
            fetch_bases(built, provider, store)?;
            let names = named_in(outputs);
            let written = outputs::write_to(destination, |writer| {
                archive::write_oci(Contents::Image(&image), &names, store, writer, &())
                    .map_err(std::io::Error::other)
            });
            written.map_err(|error| failed("the OCI archive", &error))?;
        }
        Output::OciFolder(folder) => {
            fetch_bases(built, provider, store)?;
            archive::write_folder(Contents::Image(&image), &named_in(outputs), store, folder, &())
                .map_err(|error| failed("the OCI layout", &error))?;
        }
        Output::DockerArchive(destination) => {
            fetch_bases(built, provider, store)?;
            let names = named_in(outputs);
            let plain =
                archive::uncompress(&image, store).map_err(|error| failed("the docker archive", &error))?;
            let written = outputs::write_to(destination, |writer| {
                archive::write_docker(&plain, &names, store, writer, &()).map_err(std::io::Error::other)
            });
            written.map_err(|error| failed("the docker archive", &error))?;
        }
        Output::Folder(folder) => {
            fetch_bases(built, provider, store)?;
            files::write_folder(built, store, folder, times)
                .map_err(|error| failed(&format!("the files to {}", folder.display()), &error))?;
        }
        Output::Files(destination) => {
            fetch_bases(built, provider, store)?;
            let written =
                outputs::write_to(destination, |writer| files::write_archive(built, store, writer, times));
            written.map_err(|error| failed("the archive of files", &error))?;
        }
        Output::Nothing => {}
    }
    Ok(())
}

/// The names that an archive says its image has: those of the image outputs.
fn named_in(outputs: &[Planned]) -> Vec<Reference> {
    let names = outputs.iter().filter_map(|planned| match &planned.output {
        Output::Image { names, .. } => Some(names.clone()),
        _ => None,
    });
    names.flatten().collect()
}

fn push_one(
    name: &Reference,
    image: &Image,
    built: &Built,
    provider: &Provider<'_>,
    store: &Store,
) -> Result<(), Problem> {
    let bases: Vec<Reference> =
        built.layers.iter().filter_map(|layer| provider.repository_of(layer.base.as_ref()?)).collect();
    // A layer of another registry cannot be mounted there, and must be read.
    if bases.iter().any(|base| base.registry() != name.registry()) || bases.len() < base_layers(built) {
        fetch_bases(built, provider, store)?;
    }
    provider.push(name, image, &bases)
}

fn base_layers(built: &Built) -> usize {
    built.layers.iter().filter(|layer| layer.base.is_some()).count()
}

/// Brings layers of base images that no step had to read into the store.
fn fetch_bases(built: &Built, provider: &Provider<'_>, store: &Store) -> Result<(), Problem> {
    use lithify_engine::Sources;
    for layer in &built.layers {
        let here = store.size_bytes(&layer.blob.digest);
        let here = here.map_err(|error| Problem::caused(exit::STORE, "cannot read the store", &error))?;
        if let (Some(base), None) = (&layer.base, here) {
            provider
                .fetch_layer(base, &layer.blob)
                .map_err(|error| Problem::new(exit::SOURCE, error.message))?;
        }
    }
    Ok(())
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
