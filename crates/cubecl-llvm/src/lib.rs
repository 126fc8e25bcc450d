//! cubecl-llvm
