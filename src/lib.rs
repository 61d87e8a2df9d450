//! seawall: a streaming reverse proxy for the moment your app server fails.

pub mod config;
pub mod demo;
pub mod failure;
