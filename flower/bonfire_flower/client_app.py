"""The ClientApp: a site that introduces itself, trains its clients in one pass, and scores them."""

from collections.abc import Callable

import bonfire
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from . import protocol
from .secure_site import check_insistence, is_secure, secure_mod, site_sum
from .sites import keep_site, open_site

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    config, clients, secure = protocol.read_greeting(message.content)
    if not secure:
        check_insistence(context.node_config)
    with open_site(config, clients, context) as site:
        assert site is not None, "a greeting brings the configuration"
        introduction = protocol.Introduction(dict(site.examples), site.fingerprint, site.holds)
    return Message(protocol.pack_introduction(introduction), reply_to=message)


@app.train(mods=[secure_mod])
def train(message: Message, context: Context) -> Message:
    def work(site: bonfire.Site, order: protocol.Order) -> RecordDict:
        uploads = site.train(order.download, order.plan)
        if "save" in context.node_config:
            site.save_clients(str(context.node_config["save"]))
        if is_secure(message.content):
            return site_sum(uploads, site.holds, message.content["weights"]["uniform"], context)
        return protocol.pack_uploads(uploads, site.holds)

    return _carry_out(work, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    def work(site: bonfire.Site, order: protocol.Order) -> RecordDict:
        return protocol.pack_scores(site.evaluate(order.download), site.holds)

    return _carry_out(work, message, context)


def _carry_out(
    work: Callable[[bonfire.Site, protocol.Order], RecordDict], message: Message, context: Context
) -> Message:
    """Does an order, and keeps what the site then holds; where it lacks the start, says what it holds."""
    order = protocol.read_order(message.content)
    with open_site(order.config, order.clients, context) as site:
        if site is None:
            return Message(protocol.pack_lacks(0), reply_to=message)
        try:
            content = work(site, order)
        except bonfire.StaleError:
            return Message(protocol.pack_lacks(site.holds), reply_to=message)
        keep_site(site, context)
    return Message(content, reply_to=message)
