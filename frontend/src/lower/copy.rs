//! COPY and ADD.

use lithify_graph::{CopySource, Git, Http, InlineFile, Op, Tree, Unpack};

use crate::diagnostic::Diagnostic;
use crate::expand::Lexer;
use crate::instruction::{Add, Copy, Instruction, Transfer};
use crate::lint::Rule;
use crate::lower::history::Layer;
use crate::lower::remote::{self, GitQuery, Remote};
use crate::lower::stage::Work;
use crate::lower::{Lowering, Place, chmod};
use crate::paths;
use crate::source::Word;

/// A COPY or ADD with everything expanded.
struct Expanded {
    sources: Vec<String>,
    inline: Vec<InlineFile>,
    dest: String,
    owner: Option<String>,
    mode: Option<String>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn copy(
        &mut self,
        work: &mut Work<'a>,
        instruction: &'a Instruction,
        copy: &Copy,
        triggered: bool,
    ) {
        let Some(expanded) = self.transfer(work, instruction, &copy.transfer) else { return };
        for (source, word) in expanded.sources.iter().zip(&copy.transfer.sources) {
            let problem = match remote::classify(source) {
                Ok(Remote::Git(_)) => "source can't be a git ref for COPY",
                Ok(Remote::Http) => "source can't be a URL for COPY",
                _ => continue,
            };
            self.problems.push(Diagnostic::at(word.span, problem).help("use ADD"));
            return;
        }
        let title = self.title(work, &instruction.code, triggered);
        let place = Place { node: work.node, instruction, title };
        let number = work.node.stage.number;
        let origin = self.resolver.origins(instruction, &self.stages.nodes, number).pop();
        let from = match origin {
            Some((_, Ok(origin))) => Some(self.tree(&origin, &place)),
            Some((_, Err(_))) => return,
            None => None,
        };
        let mut sources = vec![];
        for source in &expanded.sources {
            let from = from.unwrap_or_else(|| {
                self.check_ignored("Copy", source, instruction);
                self.context(None)
            });
            sources.push(CopySource::Path { from, pattern: source.clone(), unpack: Unpack::Never });
        }
        let text = history_text("COPY", copy.parents, &expanded);
        let mut op = operation(work, &copy.transfer, expanded, sources);
        op.parents = copy.parents;
        self.finish_copy(work, op, text, &place);
    }

    pub(crate) fn add(
        &mut self,
        work: &mut Work<'a>,
        instruction: &'a Instruction,
        add: &Add,
        triggered: bool,
    ) {
        let Some(expanded) = self.transfer(work, instruction, &add.transfer) else { return };
        let checksum = match &add.checksum {
            Some(word) => self.word(work, instruction, word).filter(|text| !text.is_empty()),
            None => None,
        };
        let Some(remotes) = self.remotes(&expanded, add, checksum.is_some()) else { return };
        let title = self.title(work, &instruction.code, triggered);
        let place = Place { node: work.node, instruction, title };
        let mut sources = vec![];
        for (source, kind) in expanded.sources.iter().zip(&remotes) {
            let source = match kind {
                Remote::Local => {
                    self.check_ignored("Add", source, instruction);
                    let unpack = unpacking(add.unpack.unwrap_or(true));
                    Some(CopySource::Path { from: self.context(None), pattern: source.clone(), unpack })
                }
                Remote::Http => self.http(source, add, checksum.as_deref(), &work.state.platform, &place),
                Remote::Git(query) => {
                    self.git(source, add, query, checksum.as_deref(), &work.state.platform, &place)
                }
            };
            let Some(source) = source else { return };
            sources.push(source);
        }
        let text = history_text("ADD", false, &expanded);
        let op = operation(work, &add.transfer, expanded, sources);
        self.finish_copy(work, op, text, &place);
    }

    /// What each source of an ADD is, if they go together.
    fn remotes(&mut self, expanded: &Expanded, add: &Add, has_checksum: bool) -> Option<Vec<Remote>> {
        let mut remotes = vec![];
        for (source, word) in expanded.sources.iter().zip(&add.transfer.sources) {
            match remote::classify(source) {
                Ok(remote) => remotes.push(remote),
                Err(problem) => {
                    self.fail(word.span, problem);
                    return None;
                }
            }
        }
        let span = add.transfer.dest.span;
        if !has_checksum {
            return Some(remotes);
        }
        let problem = match &remotes[..] {
            [Remote::Http | Remote::Git(_)] => return Some(remotes),
            [_] => "checksum requires HTTP(S) or Git sources",
            _ => "checksum can't be specified for multiple sources",
        };
        self.fail(add.checksum.as_ref().map_or(span, |word| word.span), problem);
        None
    }

    fn http(
        &mut self,
        url: &str,
        add: &Add,
        checksum: Option<&str>,
        platform: &lithify_oci::Platform,
        place: &Place<'_>,
    ) -> Option<CopySource> {
        let checksum = match checksum.map(str::parse::<lithify_oci::Digest>).transpose() {
            Ok(checksum) => checksum,
            Err(problem) => {
                let span = add.checksum.as_ref().map_or(place.instruction.span, |word| word.span);
                let diagnostic = Diagnostic::at(span, format!("invalid --checksum: {problem}"));
                self.problems.push(diagnostic.label("expected sha256: and 64 hexadecimal digits"));
                return None;
            }
        };
        let http = Http { url: url.to_owned(), checksum };
        let pattern = remote::literal_pattern(&http.file_name());
        let id = self.push(Op::Http(http), platform, place);
        Some(CopySource::Path { from: Tree::Of(id), pattern, unpack: unpacking(add.unpack.unwrap_or(false)) })
    }

    fn git(
        &mut self,
        url: &str,
        add: &Add,
        query: &GitQuery,
        checksum: Option<&str>,
        platform: &lithify_oci::Platform,
        place: &Place<'_>,
    ) -> Option<CopySource> {
        let span = add.transfer.sources.first().map_or(place.instruction.span, |word| word.span);
        if add.keep_git_dir.zip(query.keep_git_dir).is_some_and(|(flag, query)| flag != query) {
            self.fail(span, "inconsistent keep-git-dir configuration");
            return None;
        }
        if let Some((flag, query)) =
            checksum.zip(query.checksum.as_deref()).filter(|(flag, query)| flag != query)
        {
            self.fail(span, format!("checksum mismatch {flag:?} != {query:?}"));
            return None;
        }
        let git = Git {
            url: url.to_owned(),
            keep_git_dir: query.keep_git_dir.or(add.keep_git_dir).unwrap_or(false),
            checksum: query.checksum.clone().or_else(|| checksum.map(str::to_owned)),
        };
        let id = self.push(Op::Git(git), platform, place);
        Some(CopySource::Path { from: Tree::Of(id), pattern: "/".into(), unpack: Unpack::Never })
    }

    fn transfer(
        &mut self,
        work: &Work<'a>,
        instruction: &Instruction,
        transfer: &Transfer,
    ) -> Option<Expanded> {
        let before = self.problems.len();
        let mut optional = |word: &Option<Word>| {
            let text = word.as_ref().and_then(|word| self.word(work, instruction, word));
            text.filter(|text| !text.is_empty())
        };
        let (owner, mode) = (optional(&transfer.chown), optional(&transfer.chmod));
        if let (Some(Err(problem)), Some(word)) = (mode.as_deref().map(chmod::check), &transfer.chmod) {
            self.fail(word.span, problem);
        }
        let sources = transfer.sources.iter().filter_map(|word| self.word(work, instruction, word)).collect();
        let dest = self.word(work, instruction, &transfer.dest);
        let mut inline = vec![];
        for heredoc in &transfer.heredocs {
            let content = heredoc.content();
            let content = match heredoc.expand {
                false => content,
                true => {
                    let text = String::from_utf8_lossy(&content).into_owned();
                    let body = Word { text, span: heredoc.span };
                    let expanded = self.expanded(work, instruction, &body, &Lexer::heredoc_body());
                    expanded.map(|expanded| expanded.text.into_bytes()).unwrap_or_default()
                }
            };
            inline.push(InlineFile { name: heredoc.name.clone(), content });
        }
        let dest = dest.filter(|_| self.problems.len() == before)?;
        Some(Expanded { sources, inline, dest, owner, mode })
    }

    fn check_ignored(&mut self, keyword: &str, source: &str, instruction: &Instruction) {
        let Some(ignored) = &self.resolver.options.ignored else { return };
        let path = paths::clean(source.trim_start_matches('/'));
        if (ignored.0)(&path) {
            let message = format!("Attempting to {keyword} file {path:?} that is excluded by .dockerignore");
            self.linter.report(Rule::CopyIgnoredFile, instruction, message);
        }
    }

    fn finish_copy(&mut self, work: &mut Work<'a>, op: lithify_graph::Copy, text: String, place: &Place<'_>) {
        let platform = work.state.platform.clone();
        let id = self.push(Op::Copy(op), &platform, place);
        work.state.tree = Tree::Of(id);
        work.commit(text, Layer::Marked(id));
    }
}

fn operation(
    work: &Work<'_>,
    transfer: &Transfer,
    expanded: Expanded,
    mut sources: Vec<CopySource>,
) -> lithify_graph::Copy {
    sources.extend(expanded.inline.into_iter().map(CopySource::Inline));
    let dest = &expanded.dest;
    lithify_graph::Copy {
        base: work.state.tree,
        sources,
        dest: paths::join(&work.state.cwd, dest),
        dest_is_directory: matches!(dest.as_str(), "" | ".") || dest.ends_with('/') || dest.ends_with("/."),
        owner: expanded.owner,
        link: transfer.link && expanded.mode.is_none(),
        mode: expanded.mode,
        parents: false,
        exclude: transfer.exclude.iter().map(|word| word.text.clone()).collect(),
    }
}

fn unpacking(unpack: bool) -> Unpack {
    if unpack { Unpack::Archives } else { Unpack::Never }
}

/// `COPY --chown=1 a b /dest`.
fn history_text(keyword: &str, parents: bool, expanded: &Expanded) -> String {
    let mut parts = vec![keyword.to_owned()];
    parts.extend(parents.then(|| "--parents".to_owned()));
    parts.extend(expanded.owner.iter().map(|owner| format!("--chown={owner}")));
    parts.extend(expanded.mode.iter().map(|mode| format!("--chmod={mode}")));
    parts.extend(expanded.sources.iter().cloned());
    parts.extend(expanded.inline.iter().map(|file| format!("<<{}", file.name)));
    parts.push(expanded.dest.clone());
    parts.join(" ")
}
