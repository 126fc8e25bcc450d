//! lidit-data
