//! The two levels together: hand-overs, restarts, eviction, and a data set larger than memory.
