//! Sources and sinks of images and files.
