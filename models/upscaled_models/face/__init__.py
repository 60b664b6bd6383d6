"""The face engine: finds the faces of a picture and restores them, one after another."""
