//! lidit-train
