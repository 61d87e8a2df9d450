//! Floor 1: the configuration, from YAML to resolved values.

pub mod model;
