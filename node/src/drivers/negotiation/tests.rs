//! Stories of the driver.
