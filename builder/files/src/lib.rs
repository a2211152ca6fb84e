//! Selecting and placing files: contexts, COPY, ADD, .dockerignore.
