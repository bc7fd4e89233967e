//! Stories of founding, inviting and joining.
