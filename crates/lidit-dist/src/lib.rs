//! lidit-dist
