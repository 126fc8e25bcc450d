//! Scenes: a world of drawn objects with captions and an exact judge.
