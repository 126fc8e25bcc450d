//! lidit-model
