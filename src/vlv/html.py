"""HTML pages from the package's templates: text is escaped, and a page is one file.

Pages need no scripts and no network; pictures are part of them.
"""

import base64
import mimetypes

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, **values: object) -> str:
    """The page of a template in the folder `templates` of a package."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def data_uri(name: str, data: bytes) -> str:
    """The content of a picture in place of its address; the name's ending says its kind."""
    kind, _ = mimetypes.guess_type(name)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
