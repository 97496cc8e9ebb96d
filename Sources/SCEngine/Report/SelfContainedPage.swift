// What all pages have around their content.

/// An HTML page that needs nothing besides itself, and runs and fetches nothing whatever the content is (its Content-Security-Policy). `title` is escaped
/// here; `style` and `body` are markup.
package func selfContainedPage(title: String, style: String, body: String) -> String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
    <title>\(escaped(title))</title>
    <style>
    \(style)</style>
    </head>
    <body>
    \(body)
    </body>
    </html>

    """
}
