//! Bindings to Mercury and Argobots (placeholder line replaced below).
