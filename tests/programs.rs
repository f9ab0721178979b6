//! Harder programs than a classifier, each trained until it has learnt something.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "programs/ensemble.rs"]
mod ensemble;
#[path = "programs/gan.rs"]
mod gan;
#[path = "programs/sentences.rs"]
mod sentences;
#[path = "programs/tagger.rs"]
mod tagger;
