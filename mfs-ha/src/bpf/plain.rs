//! Lets aya read and write the common crate's types, which do not know aya.

use bytemuck::Pod;

/// A value that is its bytes, in both directions.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: aya asks that any bytes are a valid value and that a value may be read as bytes. That is what
// `bytemuck::Pod` promises (its derive refuses padding and invalid bit patterns), and a transparent
// wrapper has the layout of its field.
#[expect(unsafe_code, reason = "aya's marker trait is unsafe to implement")]
unsafe impl<T: Pod> aya::Pod for Plain<T> {}
