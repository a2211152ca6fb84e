//! Dockerfile text to a graph of build steps.
