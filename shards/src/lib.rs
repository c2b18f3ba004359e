//! One pinned executor a core, and the mesh between them. Knows no Kafka word.
