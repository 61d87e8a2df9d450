//! The pages that real frameworks make when an app fails, as `tests/pages/capture.py` caught them,
//! and seawall's judgement of them.
//!
//! `tests/pages/captured/LABEL/` has the pages that are to be called LABEL; `ordinary/` has error
//! answers that show nothing, which must pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot read a page fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use seawall::failure::Kind;
use seawall::failure::app::{self, Finding, INSPECT_BYTES, Judgement, Verdict, trace};
use seawall::failure::policy::{AppErrors, Policy, Profile};

struct Page {
    /// The folder: what seawall has to call it.
    label: String,
    /// Folder and file, for messages.
    name: String,
    content: Vec<u8>,
}

impl Page {
    /// The name of the trace in the whole page.
    fn trace(&self) -> Option<&'static str> {
        trace::TRACES.iter().find(|name| **name == self.label).copied()
    }

    /// The name of the trace in what is inspected of it.
    fn inspected(&self) -> Option<&'static str> {
        match self.name.as_str() {
            // Without Ignition Laravel shows Symfony's page, and its own frames come late in it.
            "laravel/debug.html" => Some("symfony"),
            _ => self.trace(),
        }
    }

    fn first(&self) -> &[u8] {
        self.content.get(..INSPECT_BYTES).unwrap_or(&self.content)
    }
}

fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/captured");
    let mut pages = Vec::new();
    for label in fs::read_dir(folder).unwrap() {
        let label = label.unwrap().path();
        for file in fs::read_dir(&label).unwrap() {
            let file = file.unwrap().path();
            let part = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let name = format!("{}/{}", part(&label), part(&file));
            pages.push(Page { label: part(&label), name, content: fs::read(&file).unwrap() });
        }
    }
    pages.sort_by(|one, other| one.name.cmp(&other.name));
    pages
}

/// Asserts all of it at once: a list of what is wrong helps more than the first line of it.
fn all_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_language_and_framework_has_a_captured_page() {
    let pages = pages();
    for name in trace::TRACES {
        assert!(pages.iter().any(|page| page.label == *name), "{name}");
    }
    assert!(pages.iter().filter(|page| page.label == "ordinary").count() >= 19);
    for page in &pages {
        assert!(page.trace().is_some() || page.label == "ordinary", "{}", page.name);
        assert!(!page.content.is_empty() && page.content.len() <= 64 * 1024, "{}", page.name);
        // The folder of this repository, wherever it lies, is on no page.
        let root = env!("CARGO_MANIFEST_DIR");
        assert!(!String::from_utf8_lossy(&page.content).contains(root), "{}: {root}", page.name);
    }
}

#[test]
fn every_page_is_called_by_its_name_whole_and_by_its_first_8_kib() {
    let mut wrong = Vec::new();
    for page in pages() {
        let whole = trace::detect(&page.content);
        let first = trace::detect(page.first());
        if (whole, first) != (page.trace(), page.inspected()) {
            wrong.push(format!("{}: whole {whole:?}, first 8 KiB {first:?}", page.name));
        }
    }
    all_right(&wrong);
}

fn fields(coding: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    fields
}

/// What seawall does about a 500 with this content, as it would hold it: the first 8 KiB.
fn verdict(coding: &'static str, content: &[u8]) -> Verdict {
    let policy = Policy::new(Profile::Internal, AppErrors::Scrub, Arc::default());
    let fields = fields(coding);
    assert_eq!(app::judge(&policy, 500, &fields), Judgement::Inspect, "{coding}");
    let prefix = content.get(..INSPECT_BYTES).unwrap_or(content);
    app::inspect(&policy, 500, &fields, prefix, prefix.len() == content.len())
}

fn wanted(page: &Page) -> Verdict {
    let finding =
        Finding { kind: Kind::ApplicationError, dependency: None, trace: page.inspected() };
    match finding.trace {
        Some(_) => Verdict::Replace(finding),
        None => Verdict::Passed(finding),
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn br(mut content: &[u8]) -> Vec<u8> {
    let terms = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
    let mut encoded = Vec::new();
    brotli::BrotliCompress(&mut content, &mut encoded, &terms).unwrap();
    encoded
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn a_page_is_judged_the_same_plain_and_compressed() {
    let mut wrong = Vec::new();
    for page in pages() {
        let encoded = [
            ("identity", page.content.clone()),
            ("gzip", gzip(&page.content)),
            ("deflate", deflate(&page.content)),
            ("br", br(&page.content)),
            ("gzip, br", br(&gzip(&page.content))),
        ];
        for (coding, content) in encoded {
            let found = verdict(coding, &content);
            if found != wanted(&page) {
                wrong.push(format!("{}, {coding}: {found:?}", page.name));
            }
        }
    }
    all_right(&wrong);
}

#[test]
fn a_page_in_zstd_is_judged_too_or_replaced_unread() {
    let mut wrong = Vec::new();
    let mut unread = 0;
    for page in pages() {
        let content = zstd(&page.content);
        let found = verdict("zstd", &content);
        // A page is one block, and nothing comes out of a block that is cut.
        let nameless = Finding { trace: None, ..finding(&found) };
        let is_cut = content.len() > INSPECT_BYTES && found == Verdict::Replace(nameless);
        unread += usize::from(is_cut);
        if found != wanted(&page) && !is_cut {
            wrong.push(format!("{}: {found:?}", page.name));
        }
    }
    all_right(&wrong);
    assert!(unread < 10, "{unread} pages were not read");
}

fn finding(verdict: &Verdict) -> Finding {
    match verdict {
        Verdict::Passed(finding) | Verdict::Replace(finding) => finding.clone(),
        Verdict::Healthy => Finding { kind: Kind::ApplicationError, dependency: None, trace: None },
    }
}

#[test]
fn evidence_of_a_compressed_page_is_its_text() {
    for page in pages() {
        let encoded = gzip(&page.content);
        let kept = app::evidence(&fields("gzip"), encoded.into());
        assert!(page.content.starts_with(&kept), "{}", page.name);
        assert_eq!(kept.len(), page.first().len(), "{}", page.name);
    }
}
