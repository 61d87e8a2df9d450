//! seawall: a streaming reverse proxy for the moment your app server fails.
//!
//! Every way an upstream can fail becomes one clean, truthful answer: an HTTP 500 response, or a
//! WebSocket close frame 1011. Each failure is one [`failure::Failure`] value, classified in one
//! place and settled in one place.
//!
//! The floors; each imports only what lies below it:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 7 | [`command`] | the command line, signals |
//! | 6 | [`server`], [`operator`], [`failures`] | workers, drain; a running seawall asked from a terminal |
//! | 5 | [`listen`], [`admin`], [`demo`] | sockets of clients and operators; the demonstration |
//! | 4 | [`forward`], [`route`] | one request from its head to the end of its response |
//! | 3 | [`upstream`], [`websocket`] | connections and HTTP/1.1 exchanges; the frame-aware relay |
//! | 2 | [`telemetry`] | metrics, log, journal, request ids |
//! | 1 | [`config`] | from YAML to resolved values |
//! | 0 | [`failure`], [`message`] | kinds, classification, policy, rendering; what becomes of each field of a message |
//!
//! The path of one request: `listen::accept` → `listen::http1` or `http2` → `forward::handle` →
//! `route` → `forward::request` → `forward::retry` → `upstream::http1::exchange` →
//! `forward::response` → `forward::hold` → `forward::content` → the client. Wherever it fails,
//! `forward::settle` counts, logs and journals it, and `failure::render` answers.

pub mod admin;
pub mod command;
pub mod config;
pub mod demo;
pub mod drain;
pub mod failure;
pub mod failures;
pub mod forward;
pub mod listen;
pub mod message;
pub mod net;
pub mod operator;
pub mod route;
pub mod server;
pub mod telemetry;
pub mod upstream;
pub mod websocket;
