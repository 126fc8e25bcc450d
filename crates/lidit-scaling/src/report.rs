//! A sweep's report: one page, its plots and tables.
