//! A small tree of an XML answer, bounded in depth and number; and text put into requests.

use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::BTreeMap;

const DEPTH_MAX: usize = 64;
const ELEMENTS_MAX: usize = 2_000_000;

/// An element without its namespace prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text below a dotted path; empty where it is not there.
    pub(super) fn text_at(&self, path: &str) -> &str {
        let found = path.split('.').try_fold(self, |at, name| at.child(name));
        found.map_or("", |found| found.text.as_str())
    }
}

/// Reads a document; the result is its root.
pub(super) fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = vec![Element::default()];
    let mut count = 0;
    let start = |start: &quick_xml::events::BytesStart<'_>| -> Result<Element, String> {
        let mut element =
            Element { name: String::from_utf8_lossy(start.local_name().as_ref()).into_owned(), ..Element::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let raw = String::from_utf8_lossy(&attribute.value).into_owned();
            let value = quick_xml::escape::unescape(&raw).map_err(|error| error.to_string())?.into_owned();
            element.attributes.insert(String::from_utf8_lossy(attribute.key.local_name().as_ref()).into_owned(), value);
        }
        Ok(element)
    };
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(event) => {
                count += 1;
                if open.len() > DEPTH_MAX || count > ELEMENTS_MAX {
                    return Err("the answer is too deep or too large".to_owned());
                }
                open.push(start(&event)?);
            }
            Event::Empty(event) => {
                let element = start(&event)?;
                open.last_mut().ok_or("no root")?.children.push(element);
            }
            Event::End(_) => {
                let element = open.pop().ok_or("an end without a beginning")?;
                open.last_mut().ok_or("an end without a beginning")?.children.push(element);
            }
            Event::Text(event) => {
                let text = event.decode().map_err(|error| error.to_string())?;
                open.last_mut().ok_or("no root")?.text.push_str(&text);
            }
            Event::CData(event) => {
                let text = String::from_utf8_lossy(&event).into_owned();
                open.last_mut().ok_or("no root")?.text.push_str(&text);
            }
            Event::GeneralRef(event) => {
                let name = String::from_utf8_lossy(&event).into_owned();
                let text = quick_xml::escape::unescape(&format!("&{name};")).map_err(|e| e.to_string())?.into_owned();
                open.last_mut().ok_or("no root")?.text.push_str(&text);
            }
            // entities of its own are how one makes a small document large
            Event::DocType(_) => return Err("a document type is not expected".to_owned()),
            Event::Eof => break,
            _ => {}
        }
    }
    if open.len() != 1 {
        return Err("the answer ends in the middle".to_owned());
    }
    open.pop().and_then(|mut top| top.children.pop()).ok_or_else(|| "the answer is empty".to_owned())
}

/// Text as it may stand in a request.
pub(super) fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}
