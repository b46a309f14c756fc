"""Pictures found by their captions, and captions by their pictures: two towers."""
