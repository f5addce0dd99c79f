"""Making face datasets on Ray: streams of generated or imported faces, parts, and what they report."""
