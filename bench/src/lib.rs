//! The load generator behind `coati bench`.
