from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import DefaultRouter
from tickets import views

router = DefaultRouter()
router.register("tickets", views.Tickets)
urlpatterns = [
    path("up", views.up),
    path("portal/admin/site/", admin.site.urls),
    path("portal/customer/api/", include(router.urls)),
    path("portal/customer/tickets/", views.TicketList.as_view()),
    path("portal/customer/tickets/<int:pk>/", views.TicketPage.as_view()),
    path("portal/customer/orders/<int:pk>", views.TicketEdit.as_view()),
    path("portal/customer/tickets/<int:pk>/async/", views.AsyncTicket.as_view()),
    path("portal/customer/tickets/<int:pk>/wrapped/", views.wrapped),
    path("portal/customer/who/", views.who),
]
