//! lidit-encoders
