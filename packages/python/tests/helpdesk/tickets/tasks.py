"""What a worker runs, long after the request."""

from cedargate import Entity
from cedargate.django import gate
from django.contrib.auth import get_user_model

from .models import Ticket


def close(pk, name, tenant, roles):
    """Close a ticket for a user, if the user may. The app vouches for name, tenant and roles: it has kept them from the request."""
    ticket = Ticket.objects.get(pk=pk)
    parents = [Entity("Tenant", tenant), *(Entity("Role", role) for role in roles)]
    decision = gate().client.authorize(
        "cancelOrder", ticket.entity(), principal=Entity("User", name, parents=parents), portal="customer"
    )
    if decision:
        ticket.delete()
    return bool(decision) and get_user_model().objects.filter(name=name).exists()
