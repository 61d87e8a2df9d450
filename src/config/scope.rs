//! One section of the configuration, read and described by the same lines of code.
//!
//! `check` asks a [`Scope`] for each setting, with its default and its meaning. When a file is
//! loaded the scope answers from the file and collects problems; when the schema or the reference is
//! made there is no file, and the scope writes down what it was asked. So the settings that are
//! read, the JSON Schema, and the README's table cannot differ.

use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use super::diagnostic::{Problem, nearest};
use super::raw::{Key, Node, Span, Value};
use super::units;

/// What a setting may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A number with a unit of time.
    Duration,
    /// A number with a unit of size.
    Bytes,
    /// A whole number within these bounds.
    Integer(u64, u64),
    /// `true` or `false`.
    Bool,
    /// Text of some form, which the words describe.
    Text(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Settings of its own.
    Section,
    /// A list of sections.
    Sections,
    /// A list of texts.
    Texts(&'static str),
    /// A section, or a text of some form that stands for it.
    TextOrSection(&'static str),
    /// A list of texts, each of which may be a section instead.
    TextsOrSections(&'static str),
    /// Named sections.
    Named,
}

/// One setting, as the schema and the reference tell it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// From the root: `upstreams.*.timeouts.connect`, `listeners[].address`.
    pub path: String,
    /// What it may hold.
    pub shape: Shape,
    /// What holds if it is not set; `None` if that is nothing.
    pub default: Option<String>,
    /// One sentence.
    pub meaning: &'static str,
    /// It must be set.
    pub required: bool,
}

/// Where problems and descriptions are collected.
#[derive(Debug, Default)]
pub struct Collected {
    /// What is wrong.
    pub problems: RefCell<Vec<Problem>>,
    /// What was asked, if nothing is being read.
    pub settings: RefCell<Vec<Setting>>,
}

impl Collected {
    /// Adds a problem.
    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }
}

/// A section: a map of the file, or a description in the making.
#[derive(Debug)]
pub struct Scope<'c> {
    collected: &'c Collected,
    path: String,
    span: Span,
    entries: Vec<(Key, Rc<Node>)>,
    asked: RefCell<Vec<&'static str>>,
    /// Settings that were removed: their problems are told.
    gone: RefCell<Vec<&'static str>>,
    describing: bool,
}

/// A value of the file, for checks that go beyond its shape.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// Where it stands.
    pub span: Span,
    /// What stands there.
    pub value: T,
}

impl<'c> Scope<'c> {
    /// The root of a file.
    #[must_use]
    pub fn root(node: &Node, collected: &'c Collected) -> Self {
        Self::of(node, String::new(), collected)
    }

    /// The root of a description.
    #[must_use]
    pub fn describing(collected: &'c Collected) -> Self {
        Self::virtual_at(String::new(), collected, true)
    }

    fn virtual_at(path: String, collected: &'c Collected, describing: bool) -> Self {
        Scope {
            collected,
            path,
            span: Span::default(),
            entries: Vec::new(),
            asked: RefCell::default(),
            gone: RefCell::default(),
            describing,
        }
    }

    fn of(node: &Node, path: String, collected: &'c Collected) -> Self {
        let mut scope = Self::virtual_at(path, collected, false);
        scope.span = node.span;
        match &node.value {
            Value::Map(entries) => scope.entries = scope.without_duplicates(entries),
            _ if node.is_null() => {}
            Value::Scalar(..) | Value::List(_) => {
                let message = format!("{} must be a section of settings", scope.name());
                collected.problem(
                    Problem::new(node.span, &message).remedy("write settings as key: value"),
                );
            }
        }
        scope
    }

    fn without_duplicates(&self, entries: &[(Key, Rc<Node>)]) -> Vec<(Key, Rc<Node>)> {
        let mut kept: Vec<(Key, Rc<Node>)> = Vec::new();
        for (key, node) in entries {
            if let Some((first, _)) = kept.iter().find(|(first, _)| first.text == key.text) {
                let message =
                    format!("`{}` is set twice, first in line {}", key.text, first.span.line);
                self.collected
                    .problem(Problem::new(key.span, &message).remedy("keep one of the two"));
            } else {
                kept.push((key.clone(), Rc::clone(node)));
            }
        }
        kept
    }

    fn name(&self) -> &str {
        if self.path.is_empty() { "the configuration" } else { &self.path }
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Where the section stands.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_describing(&self) -> bool {
        self.describing
    }

    /// Whether the file sets this to anything.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, node)| known.text == key && !node.is_null())
    }

    fn has_key(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known.text == key)
    }

    /// Reports a problem.
    pub fn problem(&self, problem: Problem) {
        self.collected.problem(problem);
    }

    fn ask(
        &self,
        key: &'static str,
        shape: Shape,
        default: Option<String>,
        meaning: &'static str,
        required: bool,
    ) -> Option<Rc<Node>> {
        self.asked.borrow_mut().push(key);
        if self.describing {
            self.collected.settings.borrow_mut().push(Setting {
                path: self.child_path(key),
                shape,
                default,
                meaning,
                required,
            });
            return None;
        }
        let found = self.entries.iter().find(|(known, _)| known.text == key);
        let node = found.map(|(_, node)| Rc::clone(node)).filter(|node| !node.is_null());
        // Who has misspelled it is told that, by `finish`, and not that it is missing as well.
        let is_misspelled =
            || self.entries.iter().any(|(known, _)| nearest(&known.text, [key]).is_some());
        if node.is_none() && required && (self.has_key(key) || !is_misspelled()) {
            let message = format!("{} needs `{key}`: {meaning}", self.name());
            self.problem(Problem::new(self.span, &message));
        }
        node
    }

    fn read<T>(
        &self,
        key: &'static str,
        node: &Node,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let Value::Scalar(text, _) = &node.value else {
            let message = format!("`{key}` must be a single value");
            self.problem(Problem::new(node.span, &message));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Found { span: node.span, value }),
            Err(remedy) => {
                let message = format!("`{key}` cannot be {text:?}");
                self.problem(Problem::new(node.span, &message).remedy(&remedy));
                None
            }
        }
    }

    /// A duration.
    pub fn duration(
        &self,
        key: &'static str,
        default: Duration,
        meaning: &'static str,
    ) -> Duration {
        let shown = Some(units::duration_text(default));
        let Some(node) = self.ask(key, Shape::Duration, shown, meaning, false) else {
            return default;
        };
        let read = self.read(key, &node, |text| units::duration(text).map_err(str::to_owned));
        read.map_or(default, |found| found.value)
    }

    /// A duration that cannot be zero.
    pub fn wait(&self, key: &'static str, default: Duration, meaning: &'static str) -> Duration {
        let shown = Some(units::duration_text(default));
        let Some(node) = self.ask(key, Shape::Duration, shown, meaning, false) else {
            return default;
        };
        let read = self.read(key, &node, |text| match units::duration(text) {
            Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
            other => other.map_err(str::to_owned),
        });
        read.map_or(default, |found| found.value)
    }

    /// A size between `least` and what fits into memory.
    pub fn size(&self, key: &'static str, default: u64, least: u64, meaning: &'static str) -> u64 {
        self.optional_size(key, Some(default), least, meaning).unwrap_or(default)
    }

    /// A size, or none.
    pub fn optional_size(
        &self,
        key: &'static str,
        default: Option<u64>,
        least: u64,
        meaning: &'static str,
    ) -> Option<u64> {
        let shown = default.map(units::bytes_text);
        let node = self.ask(key, Shape::Bytes, shown, meaning, false)?;
        let read = self.read(key, &node, |text| match units::bytes(text) {
            Ok(size) if size < least => Err(format!("at least {}", units::bytes_text(least))),
            other => other.map_err(str::to_owned),
        });
        read.map(|found| found.value)
    }

    /// A whole number within bounds.
    pub fn integer(
        &self,
        key: &'static str,
        default: u64,
        bounds: (u64, u64),
        meaning: &'static str,
    ) -> u64 {
        let (least, most) = bounds;
        let shape = Shape::Integer(least, most);
        let node = self.ask(key, shape, Some(default.to_string()), meaning, false);
        let read = node.and_then(|node| {
            self.read(key, &node, |text| {
                let number = text.parse().ok().filter(|n| (least..=most).contains(n));
                number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
            })
        });
        read.map_or(default, |found| found.value)
    }

    /// `true` or `false`.
    pub fn bool(&self, key: &'static str, default: bool, meaning: &'static str) -> bool {
        let node = self.ask(key, Shape::Bool, Some(default.to_string()), meaning, false);
        let read = node.and_then(|node| {
            self.read(key, &node, |text| text.parse().map_err(|_| "write true or false".to_owned()))
        });
        read.map_or(default, |found| found.value)
    }

    /// One of these words; gives its place among them.
    pub fn word(
        &self,
        key: &'static str,
        words: &'static [&'static str],
        default: usize,
        meaning: &'static str,
    ) -> usize {
        let shown = words.get(default).map(|word| (*word).to_owned());
        let node = self.ask(key, Shape::Word(words), shown, meaning, false);
        let read = node.and_then(|node| self.read(key, &node, |text| choose(text, words)));
        read.map_or(default, |found| found.value)
    }

    /// Text of some form, if it is set.
    pub fn text(
        &self,
        key: &'static str,
        form: &'static str,
        default: Option<&str>,
        meaning: &'static str,
    ) -> Option<Found<String>> {
        let shown = default.map(str::to_owned);
        let node = self.ask(key, Shape::Text(form), shown, meaning, false)?;
        self.read(key, &node, |text| Ok(text.to_owned()))
    }

    /// Text of some form that must be set.
    pub fn required_text(
        &self,
        key: &'static str,
        form: &'static str,
        meaning: &'static str,
    ) -> Option<Found<String>> {
        let node = self.ask(key, Shape::Text(form), None, meaning, true)?;
        self.read(key, &node, |text| Ok(text.to_owned()))
    }

    /// A list of texts.
    pub fn texts(
        &self,
        key: &'static str,
        form: &'static str,
        required: bool,
        meaning: &'static str,
    ) -> Vec<Found<String>> {
        let Some(node) = self.ask(key, Shape::Texts(form), None, meaning, required) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            let message = format!("`{key}` must be a list");
            self.problem(Problem::new(node.span, &message).remedy("write [one, two]"));
            return Vec::new();
        };
        if items.is_empty() && required {
            self.problem(Problem::new(node.span, &format!("`{key}` is empty: {meaning}")));
        }
        items.iter().filter_map(|item| self.read(key, item, |text| Ok(text.to_owned()))).collect()
    }

    /// A section, whether it is in the file or not.
    pub fn section(&self, key: &'static str, meaning: &'static str) -> Scope<'c> {
        self.optional_section(key, meaning).unwrap_or_else(|| {
            Self::virtual_at(self.child_path(key), self.collected, self.describing)
        })
    }

    /// A section, if it is in the file; a description always has it.
    pub fn optional_section(&self, key: &'static str, meaning: &'static str) -> Option<Scope<'c>> {
        let node = self.ask(key, Shape::Section, None, meaning, false);
        let path = self.child_path(key);
        match node {
            Some(node) => Some(Self::of(&node, path, self.collected)),
            None => self.describing.then(|| Self::virtual_at(path, self.collected, true)),
        }
    }

    /// A section, or a word in its place.
    pub fn section_or_word(
        &self,
        key: &'static str,
        word: &'static str,
        meaning: &'static str,
    ) -> Option<Result<Scope<'c>, Span>> {
        let node = self.ask(key, Shape::Section, None, meaning, false);
        let path = self.child_path(key);
        match node {
            Some(node) => match &node.value {
                Value::Scalar(text, _) if text == word => Some(Err(node.span)),
                // YAML 1.1 habits: `off` may have been meant as a boolean.
                Value::Scalar(text, _) if word == "off" && text == "false" => Some(Err(node.span)),
                _ => Some(Ok(Self::of(&node, path, self.collected))),
            },
            None => self.describing.then(|| Ok(Self::virtual_at(path, self.collected, true))),
        }
    }

    /// A section, or a text that stands for it; a description has the section.
    pub fn text_or_section(
        &self,
        key: &'static str,
        form: &'static str,
        meaning: &'static str,
    ) -> Option<Result<Scope<'c>, Found<String>>> {
        let node = self.ask(key, Shape::TextOrSection(form), None, meaning, false);
        let path = self.child_path(key);
        match node {
            Some(node) => match &node.value {
                Value::Scalar(..) => self.read(key, &node, |text| Ok(text.to_owned())).map(Err),
                _ => Some(Ok(Self::of(&node, path, self.collected))),
            },
            None => self.describing.then(|| Ok(Self::virtual_at(path, self.collected, true))),
        }
    }

    /// A list of sections; a description has one.
    pub fn sections(
        &self,
        key: &'static str,
        required: bool,
        meaning: &'static str,
    ) -> Vec<Scope<'c>> {
        let node = self.ask(key, Shape::Sections, None, meaning, required);
        let path = format!("{}[]", self.child_path(key));
        let Some(node) = node else {
            return self
                .describing
                .then(|| Self::virtual_at(path, self.collected, true))
                .into_iter()
                .collect();
        };
        let Value::List(items) = &node.value else {
            let message = format!("`{key}` must be a list");
            self.problem(Problem::new(node.span, &message).remedy("begin each entry with `- `"));
            return Vec::new();
        };
        if items.is_empty() && required {
            self.problem(Problem::new(node.span, &format!("`{key}` is empty: {meaning}")));
        }
        let read = |(at, item): (usize, &Rc<Node>)| {
            Self::of(item, format!("{}[{at}]", self.child_path(key)), self.collected)
        };
        items.iter().enumerate().map(read).collect()
    }

    /// A list of texts or sections; a description has one section.
    pub fn texts_or_sections(
        &self,
        key: &'static str,
        form: &'static str,
        required: bool,
        meaning: &'static str,
    ) -> Vec<Result<Scope<'c>, Found<String>>> {
        let node = self.ask(key, Shape::TextsOrSections(form), None, meaning, required);
        let path = format!("{}[]", self.child_path(key));
        let Some(node) = node else {
            let described =
                self.describing.then(|| Ok(Self::virtual_at(path, self.collected, true)));
            return described.into_iter().collect();
        };
        let Value::List(items) = &node.value else {
            let message = format!("`{key}` must be a list");
            self.problem(Problem::new(node.span, &message).remedy("write [one, two]"));
            return Vec::new();
        };
        if items.is_empty() && required {
            self.problem(Problem::new(node.span, &format!("`{key}` is empty: {meaning}")));
        }
        let read = |(at, item): (usize, &Rc<Node>)| match &item.value {
            Value::Map(_) => {
                let path = format!("{}[{at}]", self.child_path(key));
                Some(Ok(Self::of(item, path, self.collected)))
            }
            _ => self.read(key, item, |text| Ok(text.to_owned())).map(Err),
        };
        items.iter().enumerate().filter_map(read).collect()
    }

    /// Named sections; a description has one named `*`.
    pub fn named(
        &self,
        key: &'static str,
        required: bool,
        meaning: &'static str,
    ) -> Vec<(Key, Scope<'c>)> {
        let node = self.ask(key, Shape::Named, None, meaning, required);
        let path = format!("{}.*", self.child_path(key));
        let Some(node) = node else {
            let any = Key { span: Span::default(), text: "*".to_owned() };
            let scope = || (any, Self::virtual_at(path, self.collected, true));
            return self.describing.then(scope).into_iter().collect();
        };
        let Value::Map(entries) = &node.value else {
            let message = format!("`{key}` must be a section of named sections");
            self.problem(Problem::new(node.span, &message).remedy("write NAME: { … }"));
            return Vec::new();
        };
        if entries.is_empty() && required {
            self.problem(Problem::new(node.span, &format!("`{key}` is empty: {meaning}")));
        }
        self.without_duplicates(entries)
            .into_iter()
            .map(|(name, node)| {
                let path = format!("{}.{}", self.child_path(key), name.text);
                let scope = Self::of(&node, path, self.collected);
                (name, scope)
            })
            .collect()
    }

    /// Reports a setting that there was once, with what to do instead.
    pub fn removed(&self, key: &'static str, remedy: &str) {
        self.gone.borrow_mut().push(key);
        if let Some((key, _)) = self.entries.iter().find(|(known, _)| known.text == key) {
            let message = format!("{} has no setting `{}` any more", self.name(), key.text);
            self.problem(Problem::new(key.span, &message).remedy(remedy));
        }
    }

    /// The end of the section: what was not asked for is unknown.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in &self.entries {
            if asked.contains(&&*key.text) || self.gone.borrow().contains(&&*key.text) {
                continue;
            }
            let message = format!("{} has no setting `{}`", self.name(), key.text);
            let remedy = match nearest(&key.text, asked.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it has: {}", asked.join(", ")),
            };
            self.collected.problem(Problem::new(key.span, &message).remedy(&remedy));
        }
    }
}

fn choose(text: &str, words: &[&str]) -> Result<usize, String> {
    words.iter().position(|word| *word == text).ok_or_else(|| {
        let list = words.join(", ");
        match nearest(text, words.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`? It can be: {list}"),
            None => format!("it can be: {list}"),
        }
    })
}

impl<T: Debug> std::ops::Deref for Found<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
