//! Failures: from the error to the kind, what an app said about itself, and the rendered answer.

use std::hint::black_box;
use std::io;

use divan::Bencher;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use seawall::failure::classify::{Facts, classify};
use seawall::failure::policy::Policy;
use seawall::failure::{Failure, Kind, Phase, app, render};

const REQUEST_ID: &str = "e34479e161338332867c1683a120022e";

const ERRORS: &[(&str, Phase, u64)] =
    &[("refused", Phase::Connect, 0), ("reset", Phase::Head, 0), ("reset in body", Phase::Body, 9)];

#[divan::bench(args = ERRORS.iter().map(|row| row.0))]
fn classification(bencher: Bencher<'_, '_>, name: &str) {
    let &(_, phase, received) = ERRORS.iter().find(|row| row.0 == name).unwrap();
    let kind = match phase {
        Phase::Connect => io::ErrorKind::ConnectionRefused,
        _ => io::ErrorKind::ConnectionReset,
    };
    let (facts, error) = (Facts { phase, received }, io::Error::from(kind));
    bencher.bench(|| classify(black_box(&facts), black_box(&error)));
}

/// A TLS error has to be looked for within the I/O error.
#[divan::bench]
fn classification_tls(bencher: Bencher<'_, '_>) {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
    let error = io::Error::new(io::ErrorKind::InvalidData, alert);
    let facts = Facts::in_phase(Phase::Tls);
    bencher.bench(|| classify(black_box(&facts), black_box(&error)));
}

/// What every answer of an app goes through: nothing to find.
#[divan::bench]
fn judgement_of_a_200(bencher: Bencher<'_, '_>) {
    let (policy, fields) = (Policy::default(), HeaderMap::new());
    bencher.bench(|| app::judge(&policy, black_box(200), black_box(&fields)));
}

/// An app's own 500 with a stack trace deep in its content.
#[divan::bench]
fn inspection_of_a_trace(bencher: Bencher<'_, '_>) {
    let (policy, mut fields) = (Policy::default(), HeaderMap::new());
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let mut content = "All is quiet in this line.\n".repeat(100);
    content.push_str("Traceback (most recent call last):\n  File \"/app/a.py\", line 3, in f\n");
    content.push_str("ValueError: x\n");
    bencher.bench(|| app::inspect(&policy, 500, black_box(&fields), content.as_bytes(), true));
}

fn refused() -> Failure {
    Failure::new(Kind::ConnectionRefused, Phase::Connect)
        .with_source(io::Error::from(io::ErrorKind::ConnectionRefused))
}

#[divan::bench(args = ["*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "text/plain"])]
fn render_http(bencher: Bencher<'_, '_>, accept: &str) {
    let (failure, policy) = (refused(), Policy::default());
    let accept = Some(accept.as_bytes());
    bencher.bench(|| {
        let decision = policy.decide(black_box(&failure));
        render::http(&failure, decision, REQUEST_ID, black_box(accept))
    });
}

#[divan::bench]
fn render_grpc(bencher: Bencher<'_, '_>) {
    let (failure, content_type) = (refused(), HeaderValue::from_static("application/grpc"));
    bencher.bench(|| render::grpc(black_box(&failure), REQUEST_ID, &content_type));
}

#[divan::bench]
fn render_websocket(bencher: Bencher<'_, '_>) {
    let (failure, policy) = (refused(), Policy::default());
    bencher.bench(|| {
        let decision = policy.decide(black_box(&failure));
        render::websocket(&failure, decision, REQUEST_ID).encode_unmasked()
    });
}
