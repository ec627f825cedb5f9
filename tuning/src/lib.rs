//! Checks and sets what a Linux machine needs for throughput: behind `coati tune`.
