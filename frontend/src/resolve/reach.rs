//! What the target needs, and the triggers that bases bring along.

use std::borrow::Cow;

use lithify_graph::Span;

use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Kind};
use crate::options::ImageRequest;
use crate::parse::parse;
use crate::resolve::{Origin, Resolver, StageNode};
use crate::source::{Source, Word};

impl<'a> Resolver<'a> {
    /// Marks what the roots need, asks for the images on the way, and puts triggers in their place.
    pub(super) fn reach(&mut self, nodes: &mut [StageNode<'a>], mut open: Vec<usize>) {
        while let Some(number) = open.pop() {
            if std::mem::replace(&mut nodes[number].needed, true) {
                continue;
            }
            let triggers = self.triggers(nodes, number);
            nodes[number].triggers = triggers;
            match &nodes[number].base {
                Origin::Stage(base) => open.push(*base),
                Origin::Image(request) => self.ask(&request.clone()),
                Origin::Scratch | Origin::Folder(_) => {}
            }
            if nodes[number].replaced {
                continue;
            }
            let node = &nodes[number];
            // The words of a trigger stand in no file: FROM is where it comes from.
            let from = node.stage.instruction.span;
            let triggers = node.triggers.iter().flat_map(|it| self.origins(it, nodes, number));
            let triggers = triggers.map(|(word, origin)| (Word { span: from, ..word }, origin));
            let body = node.stage.body.iter().flat_map(|it| self.origins(it, nodes, number));
            let origins: Vec<_> = triggers.chain(body).collect();
            for (word, origin) in origins {
                match origin {
                    Ok(Origin::Stage(stage)) if stage < number => open.push(stage),
                    Ok(Origin::Stage(stage)) => self.defined_later(&nodes[number], &nodes[stage], word.span),
                    Ok(Origin::Image(request)) => self.ask(&request),
                    Ok(Origin::Scratch | Origin::Folder(_)) => {}
                    Err(problem) => {
                        let names = nodes[..number].iter().filter_map(|node| node.stage.name());
                        self.problems.push(Diagnostic::at(word.span, problem).suggest(&word.text, names));
                    }
                }
            }
        }
    }

    fn defined_later(&mut self, node: &StageNode<'_>, source: &StageNode<'_>, span: Span) {
        let message = format!(
            "cannot copy from stage {:?}, it needs to be defined before current stage {:?}",
            source.display, node.display
        );
        self.problems.push(Diagnostic::at(span, message).help("move the stage further up"));
    }

    fn ask(&mut self, request: &ImageRequest) {
        if !self.images.contains_key(request) {
            self.missing.insert(request.clone());
        }
    }

    /// The instructions that the base of a stage has stored with ONBUILD.
    fn triggers(&mut self, nodes: &[StageNode<'a>], number: usize) -> Vec<Cow<'a, Instruction>> {
        let texts: Vec<String> = match &nodes[number].base {
            Origin::Stage(base) => {
                let stored =
                    nodes[*base].stage.body.iter().filter_map(|instruction| match &instruction.kind {
                        Kind::Onbuild(text) => Some(text.clone()),
                        _ => None,
                    });
                stored.collect()
            }
            Origin::Image(request) if !nodes[number].replaced => {
                self.images.get(request).map(|image| image.config.config.on_build.clone()).unwrap_or_default()
            }
            _ => vec![],
        };
        let from = nodes[number].stage.instruction;
        texts.iter().filter_map(|text| self.trigger(text, from)).collect()
    }

    fn trigger(&mut self, text: &str, from: &Instruction) -> Option<Cow<'a, Instruction>> {
        let mut instruction = match trigger(text) {
            Ok(instruction) => instruction,
            Err(problem) => {
                let message = format!("{problem}, in the ONBUILD trigger of the base: {text}");
                self.problems.push(Diagnostic::at(from.span, message));
                return None;
            }
        };
        instruction.span = from.span;
        instruction.lines = from.lines;
        Some(Cow::Owned(instruction))
    }
}

/// The instruction that a trigger stored with ONBUILD is; the error says why it is none.
pub(crate) fn trigger(text: &str) -> Result<Instruction, String> {
    let (parsed, errors) = parse(&Source::new("ONBUILD", text));
    if let Some(error) = errors.into_iter().next() {
        return Err(error.to_string());
    }
    let mut instructions = parsed.instructions;
    match instructions.pop() {
        Some(instruction) if matches!(instruction.kind, Kind::From(_)) => {
            Err("FROM isn't allowed as an ONBUILD trigger".into())
        }
        Some(instruction) if instructions.is_empty() => Ok(instruction),
        _ => Err("onbuild trigger should be a single expression".into()),
    }
}
