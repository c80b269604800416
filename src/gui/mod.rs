//! The window: an eframe application over the same jobs and events as the command line. It owns no training logic.

pub mod instruments;
