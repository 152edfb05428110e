//! A YAML stream as trees whose nodes know their bytes in the text.
//!
//! Only reads. JSON is YAML here, too: it is one flow mapping.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

/// One document of the stream.
#[derive(Debug)]
pub(super) struct YamlDocument {
    pub root: Node,
    /// Nodes that an alias of the document repeats, by anchor, with the line of the last alias.
    pub aliased: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// First byte: of a scalar, of the opening bracket, of the first key. Without anchor and tag.
    pub start: usize,
    /// Byte after the last byte of the content; equal to `start` for an absent value.
    pub end: usize,
    /// Counted from 1.
    pub line: usize,
    /// 0: none.
    pub anchor: usize,
    pub has_tag: bool,
    /// True for `|` and `>`.
    pub is_block_scalar: bool,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Scalar {
        text: String,
        is_plain: bool,
    },
    /// The anchor that it repeats.
    Alias(usize),
    List {
        is_flow: bool,
        items: Vec<Node>,
    },
    Map {
        is_flow: bool,
        entries: Vec<Entry>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: Node,
    pub value: Node,
}

/// A text that is not YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    text: &'a str,
    aliased: BTreeMap<usize, usize>,
}

/// Reads every document of the stream.
pub(super) fn parse(text: &str) -> Result<Vec<YamlDocument>, SyntaxError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        text,
        aliased: BTreeMap::new(),
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => {
                let root = builder.node(event, &span)?;
                documents.push(YamlDocument {
                    root,
                    aliased: std::mem::take(&mut builder.aliased),
                });
            }
        }
    }
    Ok(documents)
}

impl YamlDocument {
    /// The node itself, or the one that an alias repeats.
    pub fn resolve<'a>(&'a self, node: &'a Node) -> &'a Node {
        match node.shape {
            Shape::Alias(anchor) => self.root.find_anchor(anchor).unwrap_or(node),
            _ => node,
        }
    }
}

impl<'a> Builder<'a> {
    /// The next event that is no comment.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, SyntaxError> {
        loop {
            return match self.parser.next_event() {
                None => Ok(None),
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(next)) => Ok(Some(next)),
                Some(Err(error)) => Err(SyntaxError {
                    line: error.marker().line(),
                    message: error.to_string(),
                }),
            };
        }
    }

    fn expect(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        self.next()?.ok_or_else(|| SyntaxError {
            line: 1,
            message: "the document ends too early".to_owned(),
        })
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, SyntaxError> {
        let start = offset(span.start)?;
        let end = offset(span.end)?;
        let mut node = Node {
            start,
            end,
            line: span.start.line(),
            anchor: event.anchor_id().unwrap_or_default(),
            has_tag: event.tag().is_some(),
            is_block_scalar: false,
            shape: Shape::Alias(0),
        };
        match event {
            Event::Alias(target) => {
                self.aliased.insert(target, node.line);
                node.shape = Shape::Alias(target);
            }
            Event::Scalar(text, style, ..) => {
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    node.end = block_scalar_end(self.text, start, end, &text);
                    node.is_block_scalar = true;
                }
                node.shape = Shape::Scalar {
                    text: text.into_owned(),
                    is_plain: style == ScalarStyle::Plain,
                };
            }
            Event::SequenceStart(style, ..) => self.list(&mut node, style)?,
            Event::MappingStart(style, ..) => self.map(&mut node, style)?,
            other => {
                return Err(SyntaxError {
                    line: node.line,
                    message: format!("unexpected {other:?}"),
                });
            }
        }
        Ok(node)
    }

    fn list(&mut self, node: &mut Node, style: StructureStyle) -> Result<(), SyntaxError> {
        let is_flow = style == StructureStyle::Flow;
        let mut items = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::SequenceEnd {
                node.end = end_of(style, &span, items.iter().map(|item: &Node| item.end).max(), node.start)?;
                break;
            }
            items.push(self.node(event, &span)?);
        }
        node.shape = Shape::List { is_flow, items };
        Ok(())
    }

    fn map(&mut self, node: &mut Node, style: StructureStyle) -> Result<(), SyntaxError> {
        let is_flow = style == StructureStyle::Flow;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::MappingEnd {
                let last = entries.iter().map(|entry| entry.end()).max();
                node.end = end_of(style, &span, last, node.start)?;
                break;
            }
            let key = self.node(event, &span)?;
            let (event, span) = self.expect()?;
            let value = self.node(event, &span)?;
            entries.push(Entry { key, value });
        }
        node.shape = Shape::Map { is_flow, entries };
        Ok(())
    }
}

fn offset(marker: granit_parser::Marker) -> Result<usize, SyntaxError> {
    marker.byte_offset().ok_or_else(|| SyntaxError {
        line: marker.line(),
        message: "the parser gives no byte offsets".to_owned(),
    })
}

/// The end of a collection: its closing bracket, or the end of its last content.
fn end_of(style: StructureStyle, span: &Span, last: Option<usize>, start: usize) -> Result<usize, SyntaxError> {
    if style == StructureStyle::Flow {
        return offset(span.end);
    }
    Ok(last.unwrap_or(start).max(start))
}

/// The parser's span of a block scalar reaches into the lines after it. Empty lines belong to the scalar only if it
/// keeps them (`|+`).
fn block_scalar_end(text: &str, start: usize, end: usize, value: &str) -> usize {
    let content = text.get(start..end).unwrap_or_default();
    let keeps = value.ends_with("\n\n") || value == "\n";
    if keeps {
        return content.rfind('\n').map_or(end, |at| start + at + 1);
    }
    start + content.trim_end().len()
}

impl Entry {
    /// The end of the content; an empty value has none.
    pub fn end(&self) -> usize {
        if self.value.start == self.value.end {
            return self.key.end;
        }
        self.key.end.max(self.value.end)
    }

    /// The key's text; `None` for a key that is a collection.
    pub fn name(&self) -> Option<&str> {
        self.key.text()
    }
}

impl Node {
    pub fn text(&self) -> Option<&str> {
        match &self.shape {
            Shape::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// True for an absent value: `key:` with nothing after it.
    pub fn is_absent(&self) -> bool {
        self.start == self.end && matches!(self.shape, Shape::Scalar { is_plain: true, .. })
    }

    /// True for a value that Kubernetes reads as null.
    pub fn is_null(&self) -> bool {
        self.is_absent()
            || matches!(&self.shape, Shape::Scalar { text, is_plain: true } if matches!(text.as_str(), "null" | "~" | "Null" | "NULL"))
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.shape {
            Shape::Map { entries, .. } => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.shape {
            Shape::List { items, .. } => items,
            _ => &[],
        }
    }

    /// The first entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name() == Some(name))
    }

    /// The value of the first entry of that name.
    pub fn value(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    pub fn is_flow(&self) -> bool {
        matches!(
            self.shape,
            Shape::List { is_flow: true, .. } | Shape::Map { is_flow: true, .. }
        )
    }

    fn find_anchor(&self, anchor: usize) -> Option<&Self> {
        if self.anchor == anchor {
            return Some(self);
        }
        match &self.shape {
            Shape::List { items, .. } => items.iter().find_map(|item| item.find_anchor(anchor)),
            Shape::Map { entries, .. } => entries
                .iter()
                .find_map(|entry| entry.key.find_anchor(anchor).or_else(|| entry.value.find_anchor(anchor))),
            _ => None,
        }
    }
}
