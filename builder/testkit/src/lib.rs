//! Test environment: registries, users, conformance cases.
