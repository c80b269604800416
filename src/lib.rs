//! Spectral Motion Studio: transfer the motion of a clip to a new subject.
//!
//! A **clip** is decoded ([`video`]), cut to what a **model** accepts, and turned into **motion vectors**
//! ([`motion`]) and their **spectra** ([`spectral`]); a **method** ([`methods`]) decides which weights of the
//! model learn, and a **trainer** step ([`train`]) lowers `host loss + λg · global + λl · local`; a **job**
//! ([`job`]) runs the steps on its own thread and tells **events**; the window (`gui`) and the command line ([`cli`]) read the events;
//! a **pipeline** ([`pipelines`]) samples; the result is exported ([`video`]) and compared with the clip ([`evaluate`]).
//!
//! ```text
//! file ─ video ─▶ Clip ─ motion ─▶ MotionVectors ─ spectral ─▶ Spectrum
//!                  │                                   ▲
//!                  └─ models (VAE, text) ─▶ latents ─ train(method, spectral loss) ─ job ─▶ Event ─▶ gui | cli
//!                                                         └─ pipelines ─▶ sample Clip ─▶ video ─▶ export
//! ```
//!
//! # Layers
//! `gui, cli → job → library → train, pipelines, evaluate → methods → models, schedulers, spectral::loss → nn`. [`video`], [`motion`],
//! [`project`], [`report`] and [`spectral::plain`] stand alone and anyone may use them. FFmpeg is used only in
//! [`video`]. `tests/architecture.rs` holds these rules.
//!
//! # Failure
//! Every module has its own error type that names what was touched. What a job can live with becomes a
//! `Warning` event; what ends it becomes `Finished(Failed)` with headline, cause and what to do. A panic inside
//! a job is caught at the top of its thread and told the same way.

pub mod cli;
pub mod evaluate;
#[cfg(feature = "gui")]
pub mod gui;
pub mod job;
pub mod library;
pub mod methods;
pub mod models;
pub mod motion;
pub mod nn;
pub mod pipelines;
pub mod project;
pub mod report;
pub mod schedulers;
pub mod spectral;
pub mod train;
pub mod video;
#[cfg(feature = "gui")]
pub mod viz;
