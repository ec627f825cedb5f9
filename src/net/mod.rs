//! Empty until its first piece lands.
