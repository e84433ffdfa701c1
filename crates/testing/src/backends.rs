//! Tests by backend. `SQLite` is always there; tests on a server are ignored, and reported so, where `TEST_BACKENDS` does not name
//! it when they are compiled.

/// A test on `SQLite`.
#[macro_export]
macro_rules! on_sqlite {
    ($($test:tt)+) => { $($test)+ };
}

/// A test on `PostgreSQL`.
#[cfg(backend = "postgres")]
#[macro_export]
macro_rules! on_postgres {
    ($($test:tt)+) => { $($test)+ };
}

#[cfg(not(backend = "postgres"))]
#[macro_export]
macro_rules! on_postgres {
    ($($test:tt)+) => { #[ignore = "TEST_BACKENDS does not name postgres"] $($test)+ };
}

/// A test on `MySQL` or `MariaDB`.
#[cfg(backend = "mysql")]
#[macro_export]
macro_rules! on_mysql {
    ($($test:tt)+) => { $($test)+ };
}

#[cfg(not(backend = "mysql"))]
#[macro_export]
macro_rules! on_mysql {
    ($($test:tt)+) => { #[ignore = "TEST_BACKENDS does not name mysql"] $($test)+ };
}
