//! The shape of a YAML file, with the position of every key and value.
//!
//! Nothing is interpreted here: scalars stay text, duplicate keys stay. Input is bounded in size,
//! depth and nodes, aliases included, so that no file can make the loader run away.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::diagnostic::Problem;

/// Largest file in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Most nodes, counting what aliases repeat.
const MAX_NODES: usize = 100_000;

/// A place in the file: characters from `start` to `end`, on one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters, at least 1.
    pub length: usize,
}

impl Span {
    fn between(start: &Marker, end: &Marker) -> Self {
        let length =
            if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
        Span { line: start.line(), column: start.col() + 1, length: length.max(1) }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where.
    pub span: Span,
    /// What.
    pub value: Value,
}

/// What stands in a file.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text, and whether it was quoted.
    Scalar(String, bool),
    /// A list.
    List(Vec<Rc<Node>>),
    /// Keys and values in the order of the file.
    Map(Vec<(Key, Rc<Node>)>),
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where.
    pub span: Span,
    /// Its text.
    pub text: String,
}

impl Node {
    /// Whether this is `null`, `~` or nothing at all.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, false) if matches!(&**text, "" | "~" | "null"))
    }
}

/// Reads a file's text.
///
/// # Errors
/// The first mistake in YAML itself, with its place.
pub fn read(text: &str) -> Result<Rc<Node>, Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::new(Span::default(), "the file is larger than 1 MiB"));
    }
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            other if root.is_none() => root = Some(reader.node(other, span, 0)?),
            _ => {
                let problem = Problem::new(span, "a second document begins here");
                return Err(problem.remedy("keep one document in a file; remove the line with ---"));
            }
        }
    }
    Ok(root.unwrap_or_else(|| {
        Rc::new(Node {
            span: Span { line: 1, column: 1, length: 1 },
            value: Value::Map(Vec::new()),
        })
    }))
}

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, (Rc<Node>, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, Span::between(&span.start, &span.end))),
            Some(Err(error)) => {
                let span = Span::between(error.marker(), error.marker());
                Err(Problem::new(span, &format!("not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, span: Span, nodes: usize) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Problem::new(span, "the file has more than 100,000 values"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Rc<Node>, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::new(span, "nested more than 64 levels deep"));
        }
        self.count(span, 1)?;
        let before = self.nodes;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                (Value::Scalar(text.into_owned(), style != ScalarStyle::Plain), anchor)
            }
            Event::SequenceStart(anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Value::Map(self.map(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(Problem::new(span, "an alias of something that is not complete"));
                };
                self.count(span, size)?;
                return Ok(node);
            }
            _ => return Err(Problem::new(span, "not valid YAML here")),
        };
        let node = Rc::new(Node { span, value });
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Rc<Node>>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Rc<Node>)>, Problem> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd | Event::StreamEnd, _) => return Ok(entries),
                (Event::Scalar(text, ..), span) => Key { span, text: text.into_owned() },
                (_, span) => return Err(Problem::new(span, "a key must be plain text")),
            };
            let (event, span) = self.next()?;
            entries.push((key, self.node(event, span, depth + 1)?));
        }
    }
}
