//! The blocks of `nn`: values against something not written here (published vectors, closed forms, naive loops,
//! candle compositions), gradients against finite differences in f64, and the promise that none is dropped.

mod attention;
mod blocks;
mod checkpoint;
mod conv;
mod linear;
mod noise;
mod norm;
mod support;
