//! Stories of meshes on 127.0.0.1.
