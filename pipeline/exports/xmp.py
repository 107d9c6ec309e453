"""xmp: photo.jpg.xmp beside photo.jpg, with description, label as subject, and alt text. digiKam, Immich and darktable read it."""

from __future__ import annotations

import os
from xml.sax.saxutils import escape

from .names import inside
from .work import Work, with_text

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>{subject}
   <Iptc4xmpCore:AltTextAccessibility><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></Iptc4xmpCore:AltTextAccessibility>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
_SUBJECT = "\n   <dc:subject><rdf:Bag><rdf:li>{label}</rdf:li></rdf:Bag></dc:subject>"


class Xmp:
    """One sidecar a picture. A sidecar that is there is never merged into."""

    def write(self, work: Work) -> None:
        """Beside the pictures, or below --out in the same folders."""
        for entry in with_text(work):
            picture = entry.pictures[0]
            if picture.path is None or not os.path.isfile(picture.path):
                work.output.summary.skip("no picture", entry.id)
                continue
            work.output.summary.rows += 1
            path = picture.path if work.out is None else str(work.out / inside(picture.name))
            work.output.put(f"{path}.xmp", packet(entry.text, entry.label).encode())


def packet(text: str, label: str | None) -> str:
    """The XML. text: without characters that XML forbids, as `TextSettings.finish` returns it."""
    subject = "" if label is None else _SUBJECT.format(label=escape(label))
    return _PACKET.format(text=escape(text), subject=subject)
